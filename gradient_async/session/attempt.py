"""One attempt: a request that is sent once, and its reply or its error."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from ..config import Limits
from ..decoding import parse_error
from ..errors import APIConnectionError, APIError, APIResponseValidationError, ConfigurationError
from . import aiohttp_internals
from .body import Body, Expired, coding_of, open_body
from .call import Call
from .connector import current, headers_of, request_of, url_of
from .deadlines import AttemptProgress, DeadlineTimer
from .exceptions import (
    PROXY_AUTHENTICATION,
    TRANSPORT_ERRORS,
    Peer,
    bare,
    connection_error,
    os_error_of,
    proxy_error,
    reply_begun,
    status_error,
    timeout_error,
)
from .files import OpenFiles, lacks_files
from .inflate import decoded_error
from .reply import Reply
from .trace import Trace

_OK = 200
_NO_CONTENT = 204
_REDIRECT = 300
_PROXIES = frozenset({"http", "https"})  # schemes of proxies that aiohttp can use
_WRITTEN_AT_ONCE = 256 * 1024  # maximum bytes of a request's body that are written in one piece


class Attempt:
    """One attempt of a call.

    It may take two requests: if a pooled connection turns out to have been closed while it was idle, the server cannot have
    seen the first request, and the request is sent again over a new connection.

    Args:
        session: The session that sends the request.
        call: The call to make.
        deadline: When the whole call has to be over, on the loop's clock; None is no deadline.
        started: When the call began, on the loop's clock.
        trace: Informs hooks and the log; None if there are none.
        foreign: Whether the session is the caller's own.
    """

    __slots__ = ("_call", "_deadline", "_foreign", "_progress", "_request", "_session", "_started", "_trace")

    _progress: AttemptProgress

    def __init__(
        self,
        session: aiohttp.ClientSession,
        call: Call,
        *,
        deadline: float | None,
        started: float,
        trace: Trace | None,
        foreign: bool,
    ) -> None:
        self._session = session
        self._call = call
        self._deadline = deadline
        self._started = started
        self._trace = trace
        self._foreign = foreign
        self._request = request_of(call)

    @property
    def died_idle(self) -> bool:
        """Whether a pooled connection had been closed while idle, so that the request is sent again over a new one."""
        return self._progress.died_idle

    async def send(self, *, new_connection: bool = False) -> Reply | APIError:
        """Send the request; return the reply or the error.

        Args:
            new_connection: Whether to make a new connection in place of one from the pool.

        Raises:
            ConfigurationError: If aiohttp refuses to send the request: a setting of the session does not permit it.
        """
        call, session = self._call, self._session
        loop = asyncio.get_running_loop()
        connector = session.connector
        ours = connector if isinstance(connector, aiohttp_internals.Connector) else None
        progress = self._progress = AttemptProgress(
            call, self._deadline, DeadlineTimer.of(loop) if ours is None else ours.timer
        )
        if self._foreign and aiohttp_internals.loop_of(session) not in {None, loop}:
            # Such a session works only by chance, while its own loop runs in another thread.
            return self._unusable()
        progress.wants_new_connection = new_connection
        files = OpenFiles.of(loop) if ours is None else ours.files
        failure: BaseException
        scope = progress.scope = asyncio.Timeout(None)
        expired = False
        context = current.set(progress)
        try:
            try:
                async with scope:
                    progress.start(foreign=self._foreign, tells=call.body is not None)
                    if files.line:
                        await files.wait(progress, first=False)
                    while True:
                        head = None if ours is None else ours.head_of(session, call)
                        try:
                            if ours is None or head is None:
                                response = await self._request_by_aiohttp(progress)
                            else:
                                response = await ours.send(session, head, call)
                            break
                        except OSError as error:
                            if not lacks_files(error):
                                raise
                        phase = progress.phase
                        await files.wait(progress, first=True)
                        progress.phase = phase
            finally:
                progress.over()  # the body of an error reply has its own limits
                current.reset(context)
                expired = scope.expired()
                # `scope` holds the task; a cancelled task holds its exception, whose traceback holds this frame.
                del scope
        except TRANSPORT_ERRORS as error:
            failure = bare(error)
        except RuntimeError as error:
            # aiohttp raises RuntimeError if the session has been closed, or belongs to another loop.
            failure = bare(error)
        else:
            reply = self._reply(response, progress)
            if not _OK <= reply.status < _REDIRECT or reply.status == _NO_CONTENT:
                return await self._refusal(reply, coding_of(response))
            # The limit runs from the request to the first content, so the time until the headers counts.
            reply.body.allow(progress.limit)
            reply.body.waited = reply.received - progress.sent
            return reply
        if isinstance(failure, RuntimeError):
            return self._unusable()
        if expired:
            phase, limit = progress.expired_limit()
            return timeout_error(
                self._request,
                phase=phase,
                limit=limit,
                sent=progress.phase == "response",
                lacks_files=progress.lacks_files and progress.phase == "connect",
                peer=self._peer,
            )
        # A reply that comes in the phase "connect" is the reply of a proxy.
        begun = progress.phase != "connect" and (progress.begun or reply_begun(failure))
        progress.lost = isinstance(failure, aiohttp.ClientConnectionError) and not begun
        lost = connection_error(
            failure,
            self._request,
            phase=progress.phase,
            begun=begun,
            peer=self._peer,
            limits=call.limits,
            session=session,
        )
        if not isinstance(lost, APIError):
            # A copy is raised: the traceback of `lost` would hold this frame, which holds `lost`.
            raise ConfigurationError(lost.message)
        call.redactor.clean(lost)
        lost.__cause__ = os_error_of(failure)
        return lost

    async def _request_by_aiohttp(self, progress: AttemptProgress) -> aiohttp.ClientResponse:
        """Send the request by `ClientSession.request`, which aiohttp documents."""
        call, limits = self._call, self._call.limits
        headers = headers_of(call)
        authorization: str | None = None
        trust_env = self._session.trust_env
        if trust_env:
            headers = headers.copy()
            authorization = headers.pop("Authorization", None)
        middlewares: tuple[aiohttp.ClientMiddlewareType, ...] | None = () if trust_env else None
        if self._foreign:
            theirs = aiohttp_internals.middlewares_of(self._session)
            middlewares = middlewares if theirs is None else theirs
        return await self._session.request(
            call.method,
            url_of(call),
            data=_body_of(call.body, progress.writing if self._foreign else None),
            headers=headers,
            middlewares=None
            if middlewares is None
            else (*middlewares, _last_middleware(progress, authorization)),
            allow_redirects=False,
            timeout=progress.client_timeout() if self._foreign else self._session.timeout,
            auto_decompress=False,
            raise_for_status=False,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.headers,
        )

    def _unusable(self) -> APIConnectionError:
        return APIConnectionError(
            "the session was closed, or belongs to another event loop", request=self._request, phase="connect"
        )

    @property
    def _peer(self) -> Peer:
        """The other end of the attempt, for its error."""
        url = URL(self._call.url)
        unsure = (
            self._foreign
            and not self._session.trust_env
            and aiohttp_internals.middlewares_of(self._session) is None
        )
        # `raw_host` is the host as it is sent. `host` would decode it, and raise an error for a name that begins with `xn--`
        # and is not encoded.
        return Peer(
            f"{url.raw_host}:{url.port}", self._progress.proxy, unsure=unsure, tls=url.scheme == "https"
        )

    def _reply(self, response: aiohttp.ClientResponse, progress: AttemptProgress) -> Reply:
        """Make the reply of a response of any status."""
        call = self._call
        body = (
            open_body(response, self._request, deadline=progress.deadline, limits=call.limits)
            if _OK <= response.status < _REDIRECT
            else Body(response, self._request, deadline=progress.deadline)  # decoded after it has been read
        )
        reply = Reply(response, body, self._request, call, trace=self._trace, started=self._started)
        reply.sent = progress.sent
        reply.queued = progress.queued
        if self._trace is not None:
            self._trace.response(reply.status, reply.headers, reply.rate_limits, progress.queued)
        return reply

    async def _refusal(self, reply: Reply, coding: str | None) -> APIError:
        """Read the body of a reply whose status is an error; return the error."""
        redactor, peer = self._call.redactor, self._peer
        # Keys are removed before the text is cut to the length of a message: a cut might leave the beginning of a key.
        limits = self._call.limits
        content = await _read_error(reply.body, limits)
        content = redactor.data(content if coding is None else decoded_error(content, coding, limits))
        info = reply.info(content)
        error: APIError
        if reply.status == _NO_CONTENT:
            error = APIResponseValidationError(f"{peer.answering} answered 204: no content", response=info)
        elif reply.status == PROXY_AUTHENTICATION and (peer.proxy or peer.unsure) and not peer.tls:
            reason = parse_error(content).message or "a password is required"
            error = proxy_error(reply.status, reason, self._request, peer)
        else:
            error = status_error(
                parse_error(content),
                info,
                now=time.time(),
                jitter=random.random(),  # noqa: S311  # spreads load; needs no cryptography
                peer=peer,
            )
        redactor.clean(error)
        return error


async def _read_error(body: Body, limits: Limits) -> bytes:
    """Read an error's body as far as time and size allow. If the body breaks off, use the part that arrived."""
    content = bytearray()
    body.allow(limits.error_body_seconds)
    try:
        while len(content) < limits.error_body_bytes and (data := await body.read()):
            content += data
    except (APIError, Expired):
        pass
    finally:
        body.close()  # runs in `finally`, because this task may be cancelled
    return bytes(content[: limits.error_body_bytes])


def _last_middleware(progress: AttemptProgress, authorization: str | None) -> aiohttp.ClientMiddlewareType:
    """Make the middleware that sees a request as it is sent, after all other middlewares.

    Args:
        progress: Notes the proxy.
        authorization: The header ``Authorization``, set so late that no password from ``.netrc`` replaces it; or None.
    """

    async def send(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if authorization is not None:
            request.headers["Authorization"] = authorization
        proxy = request.proxy
        if proxy is not None:
            if proxy.scheme not in _PROXIES or not proxy.host:
                raise aiohttp.InvalidURL("")  # the error does not get the URL, which may show a password
            progress.proxy = f"{proxy.host}:{proxy.port}"
        return await handler(request)

    return send


class _Body(aiohttp.Payload):
    """The body of a request.

    The body is written in pieces, so that other tasks run and an early refusal is read in between. In a caller's own
    session, writing the body is also the only sign that the request is sent.

    Args:
        content: The bytes.
        on_write: Called before the bytes are written, or read by a middleware that may send others in their place.
    """

    def __init__(self, content: bytes, on_write: Callable[[], None] | None) -> None:
        super().__init__(content, content_type="application/json")
        self.content = content
        self._on_write = on_write

    @property
    def size(self) -> int:
        """Number of bytes in the body."""
        return len(self.content)

    @property
    def autoclose(self) -> bool:
        """Whether there is nothing to close, so that a middleware may replace the body without a warning."""
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        self._tell()
        return self.content.decode(encoding, errors)

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002  # aiohttp's signature
        """Return the body."""
        self._tell()
        return self.content

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        self._tell()
        view = memoryview(self.content)
        for start in range(0, len(view), _WRITTEN_AT_ONCE):
            await writer.write(view[start : start + _WRITTEN_AT_ONCE])

    def __deepcopy__(self, memo: object) -> bytes:
        """Return the bytes. A mock in place of the network copies its arguments; the copy counts as sending."""
        self._tell()
        return self.content

    def _tell(self) -> None:
        if self._on_write is not None:
            self._on_write()


def _body_of(
    data: bytes | None, on_write: Callable[[], None] | None = None
) -> bytes | aiohttp.Payload | None:
    """Return a request's body in the form in which aiohttp should write it."""
    if data is None or (on_write is None and len(data) <= _WRITTEN_AT_ONCE):
        return data
    return _Body(data, on_write)
