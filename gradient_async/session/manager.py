"""Sends requests: one aiohttp session a running loop, attempts within a policy, errors mapped."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import weakref
from collections.abc import AsyncGenerator

import aiohttp
from aiohttp.abc import AbstractCookieJar
from multidict import CIMultiDict
from yarl import URL

from ..call import Call
from ..config import Limits
from ..decoding import parse_error
from ..errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    ConfigurationError,
    RequestInfo,
)
from ..retry import wait_before_retry
from .body import Body, Expired, runs_here
from .faults import TRANSPORT_ERRORS, connection_error, status_error, timeout_error
from .reply import Reply
from .watch import Watch, tracing

__all__ = ["SessionManager"]

_OK = 200
_NO_CONTENT = 204
_REDIRECT = 300
# Keys made up for servers that need none may be as short as a letter; those are no secret.
_SHORTEST_SECRET = 8


class _HiddenHeader(str):
    """A header's value that a traceback with captured locals does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class SessionManager:
    """Opens an aiohttp session in each loop that uses it, and makes calls.

    Args:
        session: The caller's own session, which is used in every loop and never closed.
        max_connections: Connections of one loop at a time; more calls wait for one to be free.
        trust_env: Let aiohttp read proxies and ``.netrc`` from the environment.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        max_connections: int = 1000,
        trust_env: bool = False,
    ) -> None:
        self._foreign = session
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._sessions: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None, None]]
        ] = weakref.WeakKeyDictionary()
        self._open: weakref.WeakSet[Reply] = weakref.WeakSet()
        self.closed = False

    async def send(self, call: Call) -> Reply:
        """Make a call; return the reply as soon as its headers are there.

        Raises:
            APIStatusError: If the server answered with an error and no attempt is left.
            APIConnectionError: If no answer came and no attempt is left.
            ConfigurationError: If the client has been closed.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = None if call.timeout.total is None else started + call.timeout.total
        session = await self._session(loop)
        attempt = 0
        spent = 0.0
        while True:
            attempt += 1
            outcome = await self._attempt(session, call, deadline, started)
            outcome.attempts = attempt
            if isinstance(outcome, Reply):
                self._open.add(outcome)
                return outcome
            outcome.elapsed = loop.time() - started
            wait = wait_before_retry(
                outcome,
                call.retry,
                attempt=attempt,
                max_retries=call.max_retries,
                spent=spent,
                jitter=random.random(),  # noqa: S311  # spreads load; nothing secret hangs on it
            )
            if wait is None or (deadline is not None and loop.time() + wait >= deadline):
                raise outcome
            spent += wait
            await asyncio.sleep(wait)

    async def _attempt(
        self, session: aiohttp.ClientSession, call: Call, deadline: float | None, started: float
    ) -> Reply | APIError:
        """Make one attempt: a request, and another if the pooled connection turns out to have died idle.

        A server that closed the connection before cannot have seen the first.
        """
        watch = Watch(call, deadline)
        outcome = await self._once(session, call, watch, started)
        return await self._once(session, call, Watch(call, deadline), started) if watch.died_idle else outcome

    async def _once(
        self, session: aiohttp.ClientSession, call: Call, watch: Watch, started: float
    ) -> Reply | APIError:
        """Send the request once; return the reply, or the error that it came to."""
        request = RequestInfo(method=call.method, url=call.url)
        url = URL(call.url).update_query(call.query)
        host = f"{url.host}:{url.port}"
        headers = CIMultiDict[str]()
        if call.key is not None:
            headers["Authorization"] = _HiddenHeader(f"Bearer {call.key.reveal()}")
        headers.update(call.headers)
        failure: BaseException
        try:
            async with asyncio.timeout_at(watch.deadline) as watch.scope:
                watch.start(foreign=self._foreign is not None)
                response = await session.request(
                    call.method,
                    url,
                    data=call.body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=watch.client_timeout(),
                    auto_decompress=False,
                    raise_for_status=False,
                    trace_request_ctx=watch,
                )
        except TRANSPORT_ERRORS as error:
            failure = error
        except RuntimeError as error:
            # aiohttp's word for a session closed in the meantime.
            failure = error
        else:
            return await self._judge(response, call, watch, request=request, host=host, started=started)
        if isinstance(failure, RuntimeError):
            return APIConnectionError("the session was closed", request=request, phase="connect")
        if watch.scope.expired():
            phase, limit = watch.verdict()
            return timeout_error(request, phase=phase, limit=limit, host=host)
        watch.lost = isinstance(failure, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
        return connection_error(failure, request, phase=watch.phase, host=host)

    async def _judge(
        self,
        response: aiohttp.ClientResponse,
        call: Call,
        watch: Watch,
        *,
        request: RequestInfo,
        host: str,
        started: float,
    ) -> Reply | APIError:
        """Tell a reply from an error."""
        body = Body(response, request, deadline=watch.deadline)
        reply = Reply(response, body, request, started=started, sent=watch.sent)
        if _OK <= reply.status < _REDIRECT and reply.status != _NO_CONTENT:
            # What the headers took counts: the limits run from the request to the content.
            body.allow(watch.limit)
            body.waited = reply.received - watch.sent
            return reply
        content = await _read_error(body, call.limits)
        for secret in call.secrets:
            key = secret.reveal().encode()
            if len(key) >= _SHORTEST_SECRET:
                content = content.replace(key, b"[key]")
        info = reply.info(content)
        if reply.status == _NO_CONTENT:
            return APIResponseValidationError(f"{host} answered 204: no content", response=info)
        return status_error(
            parse_error(content),
            info,
            now=time.time(),
            jitter=random.random(),  # noqa: S311  # spreads load; nothing secret hangs on it
            host=host,
        )

    async def _session(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        if self.closed:
            raise ConfigurationError("this client has been closed; make a new one")
        if self._foreign is not None:
            if self._foreign.closed:
                raise ConfigurationError("the session given to this client has been closed")
            return self._foreign
        entry = self._sessions.get(loop)
        if entry is None or entry[0].closed:
            session = self._new_session()
            # A suspended generator is closed by the loop when it shuts down, and the session with it,
            # so that a client nobody closes leaves nothing behind.
            keeper = _keep(session)
            entry = self._sessions[loop] = (session, keeper)
            await anext(keeper)
        return entry[0]

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, limit_per_host=0),
            cookie_jar=_no_cookies(),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=self._trust_env,
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            trace_configs=[tracing()],
        )

    async def close(self) -> None:
        """Close every stream and every session of this manager; the caller's own session stays open."""
        self.closed = True
        for reply in list(self._open):
            reply.body.close()
        running = asyncio.get_running_loop()
        for loop, (session, keeper) in list(self._sessions.items()):
            if loop is running:
                await keeper.aclose()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_close_elsewhere, loop, session)
        self._sessions.clear()

    def __del__(self) -> None:
        for loop, (session, _) in list(self._sessions.items()):
            if loop.is_closed() or session.closed:
                continue
            if loop.is_running() and not runs_here(loop):
                loop.call_soon_threadsafe(_close_elsewhere, loop, session)
            else:
                _close_now(session)


def _close_now(session: aiohttp.ClientSession) -> None:
    """Close a session from a finaliser: its first step closes the sockets; TLS farewells are not waited for."""
    closing = session.close()
    try:
        closing.send(None)
    except StopIteration:
        return
    closing.close()


async def _read_error(body: Body, limits: Limits) -> bytes:
    """Read an error's body, as far as time and size allow; the status decides, not the body."""
    content = bytearray()
    with contextlib.suppress(APIError, Expired, TimeoutError):
        async with asyncio.timeout(limits.error_body_seconds):
            while len(content) < limits.error_body_bytes and (data := await body.read()):
                content += data
    body.close()
    return bytes(content[: limits.error_body_bytes])


async def _keep(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await session.close()


def _close_elsewhere(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """Close a session in the loop it belongs to."""
    loop.create_task(session.close())  # the loop keeps it until its next turn, and it is short


def _no_cookies() -> AbstractCookieJar:
    return aiohttp.DummyCookieJar()
