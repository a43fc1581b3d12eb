"""One attempt: a request sent once, and its reply or the error that it came to."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from ..call import Call
from ..config import HiddenHeader, Limits
from ..decoding import parse_error
from ..errors import APIConnectionError, APIError, APIResponseValidationError, RequestInfo
from ..redaction import Redactor
from .body import Body, Expired, open_body
from .faults import TRANSPORT_ERRORS, connection_error, reply_begun, status_error, timeout_error
from .protocol import most_interim, only_fresh
from .reply import Reply
from .trace import Trace
from .transport import authorizing, body_of
from .watch import Watch

__all__ = ["attempt"]

_OK = 200
_NO_CONTENT = 204
_REDIRECT = 300


async def attempt(
    session: aiohttp.ClientSession,
    call: Call,
    *,
    deadline: float | None,
    started: float,
    trace: Trace | None,
    foreign: bool,
) -> Reply | APIError:
    """Make one attempt: a request, and another if the pooled connection turns out to have died idle.

    A server that closed the connection before cannot have seen the first.

    Args:
        session: What sends it.
        call: What to send.
        deadline: When the whole call has to be over, on the loop's clock; None is never.
        started: When the call began, on the loop's clock.
        trace: Who is told, or None.
        foreign: Whether the session is the caller's own.
    """
    once = _Once(session, call, deadline=deadline, started=started, trace=trace, foreign=foreign)
    outcome = await once.send()
    return await once.send(fresh=True) if once.watch.died_idle else outcome


class _Once:
    """Sends a request once, at a time.

    Attributes:
        watch: What the latest sending was at.
    """

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
        self._url = URL(call.url).update_query(call.query)
        self._host = f"{self._url.host}:{self._url.port}"

    async def send(self, *, fresh: bool = False) -> Reply | APIError:
        """Send the request; return the reply, or the error that it came to.

        Args:
            fresh: Whether to take a new connection, and none of the pool.
        """
        call, request, host = self._call, self._request, self._host
        headers = CIMultiDict[str]()
        if call.key is not None:
            headers["Authorization"] = HiddenHeader(f"Bearer {call.key.reveal()}")
        headers.update(call.headers)
        given = headers.pop("Authorization", None) if self._session.trust_env else None
        watch = self.watch = Watch(call, self._deadline)
        limits = call.limits
        most_interim.set(limits.interim_responses)
        only_fresh.set(fresh)
        failure: BaseException
        scope = watch.scope = asyncio.timeout_at(watch.deadline)
        try:
            async with scope:
                watch.start(foreign=self._foreign)
                response = await self._session.request(
                    call.method,
                    self._url,
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
        except TRANSPORT_ERRORS as error:
            failure = error.with_traceback(None)
        except RuntimeError as error:
            # aiohttp's word for a session closed in the meantime, or one of another loop.
            failure = error.with_traceback(None)
        else:
            return await self._judge(response)
        finally:
            # It knows this task, and the response knows the watch: a task that is cancelled later, and holds
            # the stream by its traceback, would hold itself.
            del watch.scope
            only_fresh.set(False)
        if isinstance(failure, RuntimeError):
            return APIConnectionError(
                "the session was closed, or belongs to another event loop", request=request, phase="connect"
            )
        if scope.expired():
            phase, limit = watch.verdict()
            return timeout_error(request, phase=phase, limit=limit, host=host)
        watch.lost = isinstance(failure, aiohttp.ClientConnectionError) and not reply_begun(failure)
        lost = connection_error(failure, request, phase=watch.phase, host=host, limits=limits)
        Redactor(call.secrets).clean(lost)
        return lost

    async def _judge(self, response: aiohttp.ClientResponse) -> Reply | APIError:
        """Tell a reply from an error."""
        call, watch, host = self._call, self.watch, self._host
        body = open_body(response, self._request, deadline=watch.deadline, limits=call.limits)
        reply = Reply(response, body, self._request, call, trace=self._trace, started=self._started)
        reply.sent = watch.sent
        reply.queued = watch.queued
        if self._trace is not None:
            self._trace.response(reply.status, reply.headers, watch.queued, time.time())
        if _OK <= reply.status < _REDIRECT and reply.status != _NO_CONTENT:
            # What the headers took counts: the limits run from the request to the content.
            body.allow(watch.limit)
            body.waited = reply.received - watch.sent
            return reply
        redactor = Redactor(call.secrets)
        # Before it is cut to a message's length, which might leave the beginning of a key.
        content = redactor.data(await _read_error(body, call.limits))
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
