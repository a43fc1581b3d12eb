"""One attempt: a request that is sent once, and its reply or its error."""

from __future__ import annotations

import asyncio
import random
import time

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from ..config import Limits
from ..decoding import parse_error
from ..errors import APIConnectionError, APIError, APIResponseValidationError, RequestInfo
from . import aiohttp_internals
from .body import Body, Expired, coding_of, open_body
from .call import Call
from .connector import current, headers_of, url_of
from .deadlines import AttemptProgress, DeadlineTimer
from .exceptions import TRANSPORT_ERRORS, connection_error, reply_begun, status_error, timeout_error
from .inflate import decoded_error
from .reply import Reply
from .trace import Trace

_OK = 200
_NO_CONTENT = 204
_REDIRECT = 300
_WRITTEN_AT_ONCE = 256 * 1024  # bytes of a request's body that are written in one piece


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
        self._request = RequestInfo(method=call.method, url=call.url)

    @property
    def died_idle(self) -> bool:
        """Whether a pooled connection had been closed while idle, so that the request is sent again over a new one."""
        return self._progress.died_idle

    async def send(self, *, new_connection: bool = False) -> Reply | APIError:
        """Send the request; return the reply or the error.

        Args:
            new_connection: Whether to make a new connection in place of one from the pool.
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
        failure: BaseException
        scope = progress.scope = asyncio.Timeout(None)
        context = current.set(progress)
        try:
            try:
                async with scope:
                    progress.start(foreign=self._foreign)
                    head = None if ours is None else ours.head_of(session, call)
                    if ours is None or head is None:
                        response = await self._request_by_aiohttp(progress)
                    else:
                        response = await ours.send(session, head, call)
            finally:
                progress.over()  # the body of an error reply has its own limits
                current.reset(context)
        except TRANSPORT_ERRORS as error:
            failure = error.with_traceback(None)
        except RuntimeError as error:
            # aiohttp raises RuntimeError if the session has been closed, or belongs to another loop.
            failure = error.with_traceback(None)
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
        host = self._host
        if scope.expired():
            phase, limit = progress.expired_limit()
            return timeout_error(self._request, phase=phase, limit=limit, host=host)
        begun = progress.begun or reply_begun(failure)
        progress.lost = isinstance(failure, aiohttp.ClientConnectionError) and not begun
        lost = connection_error(
            failure, self._request, phase=progress.phase, begun=begun, host=host, limits=call.limits
        )
        call.redactor.clean(lost)
        return lost

    async def _request_by_aiohttp(self, progress: AttemptProgress) -> aiohttp.ClientResponse:
        """Send the request by `ClientSession.request`, which aiohttp documents."""
        call, limits = self._call, self._call.limits
        headers = headers_of(call)
        authorization: str | None = None
        if self._session.trust_env:
            headers = headers.copy()
            authorization = headers.pop("Authorization", None)
        return await self._session.request(
            call.method,
            url_of(call),
            data=_body_of(call.body),
            headers=headers,
            middlewares=None if authorization is None else (_authorizing(authorization),),
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
    def _host(self) -> str:
        """The server's host and port, for messages."""
        url = URL(self._call.url)
        return f"{url.raw_host}:{url.port}"  # as ASCII: a name may be no encoded name, although it begins like one

    def _reply(self, response: aiohttp.ClientResponse, progress: AttemptProgress) -> Reply:
        """Make the reply of a response of any status."""
        call = self._call
        body = (
            open_body(response, self._request, deadline=progress.deadline, limits=call.limits)
            if _OK <= response.status < _REDIRECT
            else Body(response, self._request, deadline=progress.deadline)  # decoded once it has been read
        )
        reply = Reply(response, body, self._request, call, trace=self._trace, started=self._started)
        reply.sent = progress.sent
        reply.queued = progress.queued
        if self._trace is not None:
            self._trace.response(reply.status, reply.headers, progress.queued, time.time())
        return reply

    async def _refusal(self, reply: Reply, coding: str | None) -> APIError:
        """Read the body of a reply whose status is an error; return the error."""
        redactor, host = self._call.redactor, self._host
        # Keys are removed before the text is cut to the length of a message: a cut might leave the beginning of a key.
        limits = self._call.limits
        content = await _read_error(reply.body, limits)
        content = redactor.data(content if coding is None else decoded_error(content, coding, limits))
        info = reply.info(content)
        error: APIError
        if reply.status == _NO_CONTENT:
            error = APIResponseValidationError(f"{host} answered 204: no content", response=info)
        else:
            error = status_error(
                parse_error(content),
                info,
                now=time.time(),
                jitter=random.random(),  # noqa: S311  # spreads load; needs no cryptography
                host=host,
            )
        redactor.clean(error)
        return error


async def _read_error(body: Body, limits: Limits) -> bytes:
    """Read an error's body as far as time and size allow. A body that breaks off is no problem: the status decides."""
    content = bytearray()
    body.allow(limits.error_body_seconds)
    try:
        while len(content) < limits.error_body_bytes and (data := await body.read()):
            content += data
    except (APIError, Expired):
        pass
    finally:
        body.close()  # in `finally`, because this task may be cancelled
    return bytes(content[: limits.error_body_bytes])


def _authorizing(value: str) -> aiohttp.ClientMiddlewareType:
    """Make a middleware that sets ``Authorization`` last, so that a password from ``.netrc`` does not replace it."""

    async def put(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = value
        return await handler(request)

    return put


class _LargeBody(aiohttp.Payload):
    """A body of megabytes, written in pieces, so that other tasks run and an early refusal is read in between."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, content_type="application/json")
        self.content = content

    @property
    def size(self) -> int:
        """Number of bytes in the body."""
        return len(self.content)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self.content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        view = memoryview(self.content)
        for start in range(0, len(view), _WRITTEN_AT_ONCE):
            await writer.write(view[start : start + _WRITTEN_AT_ONCE])


def _body_of(data: bytes | None) -> bytes | aiohttp.Payload | None:
    """Return a request's body in the form in which aiohttp should write it."""
    return data if data is None or len(data) <= _WRITTEN_AT_ONCE else _LargeBody(data)
