"""One attempt: a request sent once, and its reply or the error that it came to."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import aiohttp
from yarl import URL

from ..config import Limits
from ..decoding import parse_error
from ..errors import APIConnectionError, APIError, APIResponseValidationError, RequestInfo
from ..secrets import Redactor
from .body import Body, Expired
from .call import Call
from .coding import open_body
from .deadlines import Rounds, Watch
from .direct import Connector, headers_of, url_of
from .exceptions import TRANSPORT_ERRORS, connection_error, reply_begun, status_error, timeout_error
from .protocol import most_interim, only_fresh
from .reply import Reply
from .trace import Trace
from .transport import authorizing, body_of

__all__ = ["Attempt"]

_OK = 200
_NO_CONTENT = 204
_REDIRECT = 300


class Attempt:
    """A request of a call, and another if the pooled connection turns out to have died idle.

    A server that closed the connection before cannot have seen the first.

    Args:
        session: What sends it.
        call: What to send.
        deadline: When the whole call has to be over, on the loop's clock; None is never.
        started: When the call began, on the loop's clock.
        trace: Who is told, or None.
        foreign: Whether the session is the caller's own.

    Attributes:
        watch: What the latest sending was at.
    """

    __slots__ = ("_call", "_deadline", "_foreign", "_request", "_session", "_started", "_trace", "watch")

    watch: Watch

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
        """Whether the request is to be sent again, over a new connection."""
        return self.watch.died_idle

    async def send(self, *, fresh: bool = False) -> Reply | APIError:
        """Send the request; return the reply, or the error that it came to.

        Args:
            fresh: Whether to take a new connection, and none of the pool.
        """
        call, request, limits = self._call, self._request, self._call.limits
        loop = asyncio.get_running_loop()
        connector = self._session.connector
        ours = connector if isinstance(connector, Connector) else None
        rounds = Rounds.of(loop) if ours is None else ours.rounds
        watch = self.watch = Watch(call, self._deadline, rounds)
        if self._foreign and getattr(self._session, "_loop", loop) is not loop:
            return self._unusable()  # it would work by chance, while its own loop runs in another thread
        if fresh:
            only_fresh.set(True)
        failure: BaseException
        scope = watch.scope = asyncio.Timeout(None)
        try:
            try:
                async with scope:
                    watch.start(foreign=self._foreign)
                    route = None if ours is None else ours.route(self._session, call)
                    if ours is None or route is None:
                        response = await self._ask_aiohttp(watch)
                    else:
                        response = await ours.send(self._session, route, call, watch)
            finally:
                watch.over()  # an error's body, if there is one, has limits of its own
                if fresh:
                    only_fresh.set(False)
        except TRANSPORT_ERRORS as error:
            failure = error.with_traceback(None)
        except RuntimeError as error:
            # aiohttp's word for a session closed in the meantime, or one of another loop.
            failure = error.with_traceback(None)
        else:
            reply = self._reply(response)
            if not _OK <= reply.status < _REDIRECT or reply.status == _NO_CONTENT:
                return await self._refusal(reply)
            # What the headers took counts: the limits run from the request to the content.
            reply.body.allow(watch.limit)
            reply.body.waited = reply.received - watch.sent
            return reply
        if isinstance(failure, RuntimeError):
            return self._unusable()
        if scope.expired():
            phase, limit = watch.verdict()
            return timeout_error(request, phase=phase, limit=limit, host=self._host)
        watch.lost = isinstance(failure, aiohttp.ClientConnectionError) and not reply_begun(failure)
        lost = connection_error(failure, request, phase=watch.phase, host=self._host, limits=limits)
        Redactor(call.secrets).clean(lost)
        return lost

    async def _ask_aiohttp(self, watch: Watch) -> aiohttp.ClientResponse:
        """Send the request by a session's own way: it is the caller's, or has proxies, or the request is large."""
        call, limits = self._call, self._call.limits
        headers = headers_of(call)
        if most_interim.get() != limits.interim_responses:  # each task that sets it holds it on its own
            most_interim.set(limits.interim_responses)
        given = headers.pop("Authorization", None) if self._session.trust_env else None
        return await self._session.request(
            call.method,
            url_of(call),
            data=body_of(call.body),
            headers=headers,
            middlewares=None if given is None else (authorizing(given),),
            allow_redirects=False,
            timeout=watch.client_timeout(),
            auto_decompress=False,
            raise_for_status=False,
            trace_request_ctx=watch,
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
        """Who is asked, for messages."""
        url = URL(self._call.url)
        return f"{url.host}:{url.port}"

    def _reply(self, response: aiohttp.ClientResponse) -> Reply:
        """Make the reply of a response of whatever status."""
        call, watch = self._call, self.watch
        body = open_body(response, self._request, deadline=watch.deadline, limits=call.limits)
        reply = Reply(response, body, self._request, call, trace=self._trace, started=self._started)
        reply.sent = watch.sent
        reply.queued = watch.queued
        if self._trace is not None:
            self._trace.response(reply.status, reply.headers, watch.queued, time.time())
        return reply

    async def _refusal(self, reply: Reply) -> APIError:
        """Make the error of a reply that is none of what was asked for."""
        call = self._call
        redactor, host = Redactor(call.secrets), self._host
        # Before it is cut to a message's length, which might leave the beginning of a key.
        content = redactor.data(await _read_error(reply.body, call.limits))
        info = reply.info(content)
        error: APIError
        if reply.status == _NO_CONTENT:
            error = APIResponseValidationError(f"{host} answered 204: no content", response=info)
        else:
            error = status_error(
                parse_error(content),
                info,
                now=time.time(),
                jitter=random.random(),  # noqa: S311  # spreads load; nothing secret hangs on it
                host=host,
            )
        redactor.clean(error)
        return error


async def _read_error(body: Body, limits: Limits) -> bytes:
    """Read an error's body, as far as time and size allow; the status decides, not the body."""
    content = bytearray()
    try:
        with contextlib.suppress(APIError, Expired, TimeoutError):
            async with asyncio.timeout(limits.error_body_seconds):
                while len(content) < limits.error_body_bytes and (data := await body.read()):
                    content += data
    finally:
        body.close()  # also when cancelled
    return bytes(content[: limits.error_body_bytes])
