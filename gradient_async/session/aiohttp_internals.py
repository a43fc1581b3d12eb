"""All uses of names that aiohttp does not document, behind one switch.

`enabled` is the switch. It is on for the versions of aiohttp that this file was tested with, if they use their parser in
C, and off for any other. With the switch off, calls are slower, and nothing else changes. A caller's own session only
uses `loop_of`, `middlewares_of` and `join_chunks`.

| piece | what it buys | without it |
|---|---|---|
| `Connector.send`, `RequestHead` | 75 µs a call: the bytes that are the same in all calls are made once | `ClientSession.request` |
| `Handler` | aiohttp's parser is not fed empty bytes after each read | it is fed empty bytes |
| `reader_of` | three calls of Python a read, 1 % of the cost of a token | `StreamReader.read_nowait` |
| `join_chunks` | up to 13 % of the cost of a token where a read brings many HTTP chunks | aiohttp takes them one by one |
| `loop_of` | a caller's session that belongs to another loop is refused | such a session may work by chance |
| `middlewares_of` | errors name the proxy of a caller's session | they speak of a proxy, without its name |

The risk of each piece is the same: another version of aiohttp may rename these things, or call them in another order.
Therefore there is the switch, and all tests also run with the switch off.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections import deque
from collections.abc import Callable
from types import FunctionType
from typing import Any

import aiohttp
from aiohttp import client, client_proto, hdrs, http_parser
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import TimerNoop

from . import connector
from .call import Call
from .connector import Response, headers_of, url_of
from .deadlines import DeadlineTimer

_TESTED = "3.14."

# The longest body of a request that is sent here; aiohttp sends longer bodies in pieces.
_MAX_BODY = 32 * 1024
_MAX_HEADS = 100
# Headers that change how a request is sent; requests with them are left to aiohttp.
_SENT_OTHERWISE = frozenset({"connection", "content-encoding", "expect", "upgrade"})
_NO_TIMER = TimerNoop()

enabled = aiohttp.__version__.startswith(_TESTED) and (
    vars(client_proto)["HttpResponseParser"] is not http_parser.HttpResponseParserPy
)
"""The switch; see the docstring of this file."""


class Handler(ResponseHandler):
    """aiohttp's protocol, which does not tell its parser about pauses.

    After a pause that came when the parser had parsed everything, the parser holds back most of the next bytes until it is
    fed again. These bytes have been received, so a reader would wait for nothing.
    """

    __slots__ = ()

    def pause_reading(self) -> None:
        """Pause reading from the socket; bytes that have been read are still parsed."""
        self._reading_paused = True
        self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002  # aiohttp's signature
        """Continue to read, if reading was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


def reader_of(content: aiohttp.StreamReader) -> Callable[[], bytes]:
    """Return a function that takes bytes that have arrived: usually all of them.

    If nothing has arrived, the function returns b"" or raises IndexError.
    """
    if enabled:
        inside: Any = content
        return functools.partial(inside._read_nowait_chunk, -1)  # noqa: SLF001  # what `read_nowait` calls
    return content.read_nowait


def join_chunks(content: aiohttp.StreamReader) -> None:
    """Join the HTTP chunks that have arrived, so that aiohttp takes them in one step instead of one for each."""
    chunks: deque[bytes] | None = getattr(content, "_buffer", None) if enabled else None
    if chunks is not None and len(chunks) > 1:
        together = b"".join(chunks)
        chunks.clear()
        chunks.append(together)


def loop_of(session: aiohttp.ClientSession) -> asyncio.AbstractEventLoop | None:
    """Return the event loop that a session belongs to; None if that is unknown."""
    loop: asyncio.AbstractEventLoop | None = getattr(session, "_loop", None) if enabled else None
    return loop


def middlewares_of(session: aiohttp.ClientSession) -> tuple[aiohttp.ClientMiddlewareType, ...] | None:
    """Return the middlewares of a session, which those of a request replace; None if they are unknown."""
    return tuple(getattr(session, "_middlewares", ())) if enabled else None


class _Bytes(bytes):
    """The bytes of a request. They contain the key, so their repr, which tracebacks with locals show, hides them."""

    def __repr__(self) -> str:
        return "b'…'"


class _Written:
    """Takes the place of a request's writer once the request has been written."""

    output_size = 0


class RequestHead:
    """The common part of requests with the same URL, headers and key.

    Attributes:
        loop: The event loop of the connector.
        request: The request with which the connector is asked for a connection.
        info: What a response keeps of the request.
        usual: Whether `Connector.send` may write such requests; requests with some headers are left to aiohttp.
        start: The bytes of such a request up to the length of its body.
    """

    __slots__ = ("__weakref__", "info", "loop", "request", "start", "usual")

    def __init__(self, session: aiohttp.ClientSession, call: Call) -> None:
        url = url_of(call)
        self.loop = asyncio.get_running_loop()
        self.request = aiohttp.ClientRequest(
            call.method,
            url,
            headers=headers_of(call),
            skip_auto_headers=session.skip_auto_headers,
            data=b"",
            loop=self.loop,
        )
        self.info = self.request.request_info
        lines = [f"{call.method} {url.raw_path_qs} HTTP/1.1"]
        lines += [
            f"{name}: {value}" for name, value in self.request.headers.items() if name != hdrs.CONTENT_LENGTH
        ]
        self.usual = _SENT_OTHERWISE.isdisjoint(map(str.lower, call.headers))
        self.start = _Bytes("\r\n".join([*lines, f"{hdrs.CONTENT_LENGTH}: "]).encode())


class Connector(connector.Connector):
    """A pool of connections that writes requests itself.

    Attributes:
        timer: The timer that enforces the deadlines of attempts.
        direct: Whether requests may be written here. They may not if aiohttp has to handle them on their way, for a
            proxy or for trace signals.
    """

    direct = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = functools.partial(Handler, loop=self._loop)
        self.timer = DeadlineTimer.of(self._loop)
        self._heads: dict[object, RequestHead] = {}

    def head_of(self, session: aiohttp.ClientSession, call: Call) -> RequestHead | None:
        """Return the part that a call has in common with others; None if aiohttp has to send the call."""
        body = call.body
        if not self.direct or body is None or len(body) > _MAX_BODY or self._closed or _replaced():
            return None
        # Calls from one template share `prepared`. The head that the first of them puts there saves later calls a
        # look-up by URL and headers.
        reference: weakref.ref[RequestHead] | None = call.prepared.get("head")
        head = None if reference is None else reference()
        if head is None or head.loop is not self._loop:
            head = self._head_like(session, call)
            call.prepared["head"] = weakref.ref(head)  # a strong reference would keep ended loops alive
        return head if head.usual else None

    def _head_like(self, session: aiohttp.ClientSession, call: Call) -> RequestHead:
        """Return the head of calls with equal URL, headers and key."""
        key = (call.method, call.url, call.key, call.query, tuple(call.headers.items()))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()  # the caller sends a header whose value differs in each call
            head = self._heads[key] = RequestHead(session, call)
        return head

    async def send(
        self, session: aiohttp.ClientSession, head: RequestHead, call: Call
    ) -> aiohttp.ClientResponse:
        """Send a request; return the response once its head has arrived.

        Raises:
            aiohttp.ClientError: As `ClientSession.request` raises it; `OSError` and `ValueError` are possible, too.
        """
        request = head.request
        connection = await self.connect(request, traces=[], timeout=session.timeout)
        try:
            used: Any = connection.protocol
            limits = call.limits
            used.set_response_params(
                timer=_NO_TIMER,
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=limits.header_bytes,
                max_field_size=limits.header_bytes,
                max_headers=limits.headers,
            )
            body = call.body or b""
            used.transport.write(_Bytes(b"%b%d\r\n\r\n%b" % (head.start, len(body), body)))
            writer: Any = _Written
            response = Response(
                request.method,
                request.url,
                writer=None,
                continue100=None,
                timer=_NO_TIMER,
                request_info=head.info,
                traces=[],
                loop=self._loop,
                session=session,
                stream_writer=writer,
            )
            try:
                await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise
        return response


def _replaced() -> bool:
    """Whether a mock or an instrumentation has replaced the method by which aiohttp sends requests."""
    request: Any = aiohttp.ClientSession._request  # noqa: SLF001  # the method that mocks and instrumentations replace
    names = request.__globals__ if isinstance(request, FunctionType) else {}
    return names.get("__name__") != client.__name__
