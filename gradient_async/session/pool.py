"""One aiohttp session for each event loop: opened on first use, and closed with its loop at the latest."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator
from typing import TypeAlias

import aiohttp

from ..config import Limits
from ..errors import ConfigurationError
from . import aiohttp_internals
from .body import runs_here
from .connector import Connector, Response

# Idle connections are closed after this time, which is shorter than the idle times of known servers.
_IDLE_SECONDS = 14.0

_Sessions: TypeAlias = weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None, None]]
]

# Sessions of the parent process, after a fork. They are kept here for ever: closing or dropping them would close the sockets
# that this process shares with its parent.
_inherited: list[_Sessions] = []


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
    """

    def __init__(
        self, *, session: aiohttp.ClientSession | None, max_connections: int, trust_env: bool, limits: Limits
    ) -> None:
        self._foreign = session
        self.foreign = session is not None
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._limits = limits
        self._sessions: _Sessions = weakref.WeakKeyDictionary()
        self._pid = os.getpid()
        self.closed = False

    async def session(self) -> aiohttp.ClientSession:
        """Return the session of the running loop.

        Raises:
            ConfigurationError: If the pool or the caller's session is closed, or if no usable loop is running.
        """
        if self.closed:
            raise ConfigurationError("this client has been closed; make a new one")
        loop = _running_loop()
        if self._pid != os.getpid():
            self._forget_parent(loop)
        if self._foreign is not None:
            if self._foreign.closed:
                raise ConfigurationError("the session given to this client has been closed")
            return self._foreign
        entry = self._sessions.get(loop)
        if entry is None or entry[0].closed:
            self._forget_closed()
            session = _open_session(
                max_connections=self._max_connections, trust_env=self._trust_env, limits=self._limits
            )
            # When a loop shuts down, it closes suspended async generators. Closing this one closes the session, so that a
            # client that is never closed leaves no open connection.
            keeper = _keep(session)
            entry = self._sessions[loop] = (session, keeper)
            await anext(keeper)
        return entry[0]

    def _forget_closed(self) -> None:
        """Remove closed loops with their sessions; loop and session keep each other alive."""
        for reference in self._sessions.keyrefs():
            loop = reference()
            entry = None if loop is None else self._sessions.get(loop)
            if loop is not None and entry is not None and loop.is_closed() and entry[0].closed:
                self._sessions.pop(loop, None)

    def _forget_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start without sessions in a forked process, because connections can't be shared with the parent."""
        if self._foreign is not None or loop in self._sessions:
            raise ConfigurationError(
                "this process was forked, and the event loop or the session belongs to its parent: "
                "start a new loop here with asyncio.run(...), and let the client open its own session"
            )
        _inherited.append(self._sessions)
        self._sessions = weakref.WeakKeyDictionary()
        self._pid = os.getpid()

    async def close(self) -> None:
        """Close every session except the caller's own."""
        self.closed = True
        if self._pid != os.getpid():
            return
        running = asyncio.get_running_loop()
        for loop, (session, keeper) in list(self._sessions.items()):
            if loop is running:
                await keeper.aclose()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_close_elsewhere, loop, session)
        self._sessions.clear()

    def __del__(self) -> None:
        if self._pid != os.getpid():
            _inherited.append(self._sessions)
            return
        for loop, (session, _) in list(self._sessions.items()):
            if loop.is_closed() or session.closed:
                continue
            if loop.is_running() and not runs_here(loop):
                loop.call_soon_threadsafe(_close_elsewhere, loop, session)
            else:
                _close_now(session)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    raise ConfigurationError(
        "no asyncio event loop is running: await the client inside asyncio.run(...); "
        "other async libraries, such as trio, are not supported"
    )


def _close_now(session: aiohttp.ClientSession) -> None:
    """Close a session from a finaliser: run the first step of `close`, which closes the sockets, and skip TLS shutdown."""
    closing = session.close()
    try:
        closing.send(None)
    except StopIteration:
        return
    closing.close()


async def _keep(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await session.close()


def _close_elsewhere(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """Close a session in the loop that it belongs to.

    The loop refers to the task until the task's first step, which closes the sockets.
    """
    loop.create_task(session.close())


def _open_session(*, max_connections: int, trust_env: bool, limits: Limits) -> aiohttp.ClientSession:
    """Open a session without cookies, decompression and aiohttp's own headers, and with limits on replies."""
    connector = (aiohttp_internals.Connector if aiohttp_internals.enabled else Connector)(
        max_connections=max_connections, keepalive_timeout=_IDLE_SECONDS
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
