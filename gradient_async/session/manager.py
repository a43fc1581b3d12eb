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
from ..decoding import ErrorBody, parse_error
from ..errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    RequestInfo,
    ResponseInfo,
)
from ..ratelimit import rate_limits
from ..retry import wait_before_retry
from ..types import Headers, RateLimits
from .body import Body, Expired, runs_here
from .faults import TRANSPORT_ERRORS, connection_error, status_error, timeout_error
from .watch import Watch, tracing

__all__ = ["Reply", "SessionManager"]

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


class Reply:
    """A reply of status 2xx: headers, and a body that is still to be read.

    Attributes:
        status: HTTP status.
        http_version: Such as ``HTTP/1.1``.
        headers: The reply's headers.
        request: What it answers.
        body: Where to read.
        attempts: How many requests it took.
        started: When the call began, on the loop's clock.
        sent: When the request of the last attempt was sent, on the loop's clock.
        received: When the headers were there, on the loop's clock.
    """

    __slots__ = (
        "__weakref__",
        "attempts",
        "body",
        "headers",
        "http_version",
        "received",
        "request",
        "sent",
        "started",
        "status",
    )

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        body: Body,
        request: RequestInfo,
        *,
        started: float,
        sent: float,
    ) -> None:
        self.status = response.status
        version = response.version
        self.http_version = "HTTP/1.1" if version is None else f"HTTP/{version.major}.{version.minor}"
        self.headers = Headers(response.headers.items())
        self.request = request
        self.body = body
        self.attempts = 1
        self.started = started
        self.sent = sent
        self.received = asyncio.get_running_loop().time()

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the headers."""
        return self.headers.get("x-request-id")

    @property
    def rate_limits(self) -> RateLimits | None:
        """What the headers said of limits."""
        return rate_limits(self.headers, time.time())

    def info(self, content: bytes = b"") -> ResponseInfo:
        """Describe it for an error."""
        return ResponseInfo(
            status_code=self.status, headers=self.headers, request=self.request, content=content
        )

    def refusal(self, said: ErrorBody, info: ResponseInfo) -> APIStatusError:
        """Make the error of a reply of status 2xx whose body holds one."""
        error = status_error(said, info, now=time.time(), jitter=0.0, host=URL(self.request.url).authority)
        error.attempts = self.attempts
        return error

    async def read_all(self, limits: Limits) -> bytes:
        """Read the whole body.

        Args:
            limits: How many bytes that may be.

        Raises:
            APIConnectionError: If the connection was lost before the end.
            APIResponseValidationError: If there is more than ``limits.body_bytes``.
        """
        pieces: list[bytes] = []
        size = 0
        lost: APIConnectionError
        try:
            while data := await self.body.read():
                pieces.append(data)
                size += len(data)
                if limits.body_bytes is not None and size > limits.body_bytes:
                    self.body.close()
                    raise APIResponseValidationError(
                        f"the reply has more than body_bytes={limits.body_bytes} bytes; "
                        "raise Limits(body_bytes=...) if that is meant",
                        response=self.info(pieces[0][:200]),
                    )
        except APIConnectionError as error:
            lost = APIConnectionError(
                f"the connection was lost in the middle of the reply, after {size} bytes ({error.message})",
                phase="body",
            )
        except Expired:
            lost = APITimeoutError(
                f"the reply was not whole within Timeout.{self.body.expired}, after {size} bytes",
                phase="total" if self.body.expired == "total" else "response",
            )
        else:
            self.body.close()
            return b"".join(pieces)
        self.body.close()
        lost.response = self.info(b"".join(pieces))
        lost.request = self.request
        lost.ambiguous = True
        lost.attempts = self.attempts
        lost.elapsed = asyncio.get_running_loop().time() - self.started
        raise lost


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
            outcome = await self._attempt(session, call, started, deadline)
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
        self, session: aiohttp.ClientSession, call: Call, started: float, deadline: float | None
    ) -> Reply | APIError:
        """Send the request once; return the reply, or the error that it came to."""
        watch = Watch(call, deadline)
        request = RequestInfo(method=call.method, url=call.url)
        url = URL(call.url).update_query(call.query)
        host = f"{url.host}:{url.port}"
        headers = CIMultiDict[str]()
        if call.key is not None:
            headers["Authorization"] = _HiddenHeader(f"Bearer {call.key.reveal()}")
        headers.update(call.headers)
        failure: BaseException
        try:
            async with asyncio.timeout_at(deadline) as watch.scope:
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
            return await self._judge(
                response, call, request, host, started=started, watch=watch, deadline=deadline
            )
        if isinstance(failure, RuntimeError):
            return APIConnectionError("the session was closed", request=request, phase="connect")
        if watch.scope.expired():
            phase, limit = watch.verdict(deadline)
            return timeout_error(request, phase=phase, limit=limit, host=host)
        return connection_error(failure, request, phase=watch.phase, host=host)

    async def _judge(
        self,
        response: aiohttp.ClientResponse,
        call: Call,
        request: RequestInfo,
        host: str,
        *,
        started: float,
        watch: Watch,
        deadline: float | None,
    ) -> Reply | APIError:
        body = Body(response, request, deadline=deadline)
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
        # What __init__ could not finish has nothing to close.
        for loop, (session, _) in list(getattr(self, "_sessions", {}).items()):
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
