"""One aiohttp session for each event loop: opened on first use, and closed with its loop at the latest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator
from typing import TypeAlias

import aiohttp

from ..config import Limits
from ..errors import ConfigurationError
from . import aiohttp_internals
from .connector import Connector, Response
from .forks import keep_for_ever
from .loops import call_in, runs_here

# Idle connections are closed after this time, which is shorter than the idle times of known servers.
_IDLE_SECONDS = 14.0

_CLOSED = "this client has been closed; make a new one"

# Maximum seconds to wait until the loops of other threads have closed their sessions.
_PATIENCE = 1.0

# The loops of other threads may add and remove entries at any time. Therefore only a copy is iterated over.
_Sessions: TypeAlias = dict[
    asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None, None]]
]


class Pool:
    """The aiohttp sessions of a client, one for each event loop.

    Args:
        session: The caller's own session, which is used in every loop and never closed; or None.
        max_connections: Maximum number of connections in one loop; further calls wait for a free connection.
        trust_env: Whether aiohttp reads proxies and ``.netrc`` from the environment.
        limits: Limits on headers, for requests that have no limits of their own.

    Attributes:
        foreign: Whether the session is the caller's own.
        closed: Whether `close` was called.
        lock: Guards the token buckets and cooldowns, which calls in several threads change.
    """

    def __init__(
        self, *, session: aiohttp.ClientSession | None, max_connections: int, trust_env: bool, limits: Limits
    ) -> None:
        self._foreign = session
        self.foreign = session is not None
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._limits = limits
        self._sessions: _Sessions = {}
        self._pid = os.getpid()
        self.closed = False
        self.lock = threading.Lock()

    async def session(self) -> aiohttp.ClientSession:
        """Return the session of the running loop.

        Raises:
            ConfigurationError: If the pool or the caller's session is closed, or if no usable loop is running.
        """
        if self.closed:
            raise ConfigurationError(_CLOSED)
        loop = _running_loop()
        if self._pid != os.getpid():
            self._forget_parent(loop)
        if self._foreign is not None:
            if self._foreign.closed:
                raise ConfigurationError("the session given to this client has been closed")
            return self._foreign
        entry = self._sessions.get(loop)
        return await self._open(loop) if entry is None or entry[0].closed else entry[0]

    async def _open(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        self._forget_closed()
        session = _open_session(
            owner=self, max_connections=self._max_connections, trust_env=self._trust_env, limits=self._limits
        )
        # When a loop shuts down, it closes suspended async generators. Closing this one closes the session, so that a
        # client that is never closed leaves no open connection.
        keeper = _keep(session)
        self._sessions[loop] = (session, keeper)
        await anext(keeper)
        if self.closed:  # another thread may have closed the pool before it saw this session
            await keeper.aclose()
            raise ConfigurationError(_CLOSED)
        return session

    def _forget_closed(self) -> None:
        """Remove closed loops with their sessions, which would otherwise keep each other alive."""
        for loop, (session, _) in self._sessions.copy().items():
            if loop.is_closed() and session.closed:
                self._sessions.pop(loop, None)

    def _forget_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start without sessions in a forked process, because connections can't be shared with the parent."""
        if self._foreign is not None or loop in self._sessions:
            raise ConfigurationError(
                "this process was forked, and the event loop or the session belongs to its parent: "
                "start a new loop here with asyncio.run(...), and let the client open its own session"
            )
        keep_for_ever(self._sessions)
        self._sessions = {}
        # If a thread of the parent held the old lock during the fork, no thread of this process would ever release it.
        self.lock = threading.Lock()
        self._pid = os.getpid()

    async def close(self) -> None:
        """Close every session except the caller's own, each in its own loop.

        This method waits at most one second for the loops of other threads. A loop that is blocked or stopped closes its
        session when it runs again.
        """
        self.closed = True
        if self._pid != os.getpid():
            return
        running = asyncio.get_running_loop()
        sessions = self._sessions.copy()
        self._sessions.clear()
        elsewhere = [
            _close_and_tell(loop, keeper)
            for loop, (_, keeper) in sessions.items()
            if loop is not running and not loop.is_closed()
        ]
        if running in sessions:
            await sessions[running][1].aclose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                for closed in elsewhere:
                    await closed.wait()

    def __del__(self) -> None:
        if self._pid != os.getpid():
            keep_for_ever(self._sessions)
            return
        for loop, (session, keeper) in self._sessions.items():
            connector = session.connector
            if connector is None:
                continue
            if runs_here(loop):
                _close_now(connector, keeper)
            else:
                call_in(loop, _close_now, connector, keeper)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    raise ConfigurationError(
        "no asyncio event loop is running: await the client inside asyncio.run(...); "
        "other async libraries, such as trio, are not supported"
    )


def _close_now(connector: aiohttp.BaseConnector, keeper: AsyncGenerator[None, None]) -> None:
    """Close a connector that was dropped: run the first step of `close`, which closes the sockets, and skip TLS shutdown.

    A task would have to be waited for: if the loop ends at once, the task is cancelled before it closes anything.
    """
    closing = connector.close().__await__()
    with contextlib.suppress(StopIteration):
        closing.send(None)
    closing.close()
    # The generator is closed here. Otherwise the loop would make a task to close the generator, and `asyncio.run` would cancel
    # the task. Nothing is awaited here, because the connector is closed. A loop that is shutting down may be closing the
    # generator already, or have closed it.
    with contextlib.suppress(StopIteration, RuntimeError):
        keeper.aclose().send(None)


async def _keep(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await session.close()


def _close_here(loop: asyncio.AbstractEventLoop, keeper: AsyncGenerator[None, None]) -> asyncio.Task[None]:
    """Close a session in the running loop, to which the session belongs.

    The loop refers to the task until its first step has run. This step closes the sockets, so nothing else needs to
    refer to the task.
    """
    return loop.create_task(_close(keeper))


async def _close(keeper: AsyncGenerator[None, None]) -> None:
    # A loop that shuts down closes its async generators. If it is closing this one, `aclose` raises RuntimeError.
    with contextlib.suppress(RuntimeError):
        await keeper.aclose()


def _close_and_tell(loop: asyncio.AbstractEventLoop, keeper: AsyncGenerator[None, None]) -> asyncio.Event:
    """Close a session in its own loop, which may run in another thread; return an event of the running loop.

    The event is set when the session is closed. If the loop of the session is stopped, it may never run again, so the
    event is set at once.
    """
    here = asyncio.get_running_loop()
    closed = asyncio.Event()
    if not loop.is_running():
        closed.set()

    def tell(_task: asyncio.Task[None]) -> None:
        call_in(here, closed.set)

    call_in(loop, lambda: _close_here(loop, keeper).add_done_callback(tell))
    return closed


def _open_session(
    *, owner: Pool, max_connections: int, trust_env: bool, limits: Limits
) -> aiohttp.ClientSession:
    """Open a session without cookies, decompression and aiohttp's own headers, and with limits on replies."""
    connector = (aiohttp_internals.Connector if aiohttp_internals.enabled else Connector)(
        owner=owner, max_connections=max_connections, keepalive_timeout=_IDLE_SECONDS
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # `AttemptProgress` and `Body` enforce the limits
        trust_env=trust_env,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        response_class=Response,
        max_line_size=limits.header_bytes,
        max_field_size=limits.header_bytes,
        max_headers=limits.headers,
    )
    if isinstance(connector, aiohttp_internals.Connector):
        # aiohttp itself has to send requests that may use proxies or `.netrc`, or that an instrumentation traces.
        connector.direct = not trust_env and not session.trace_configs
    return session
