"""All use of what aiohttp does not document, behind one switch.

`enabled` is the switch: on for the versions of aiohttp that this was tested with and for its parser in C, off for any
other. With the switch off, calls are slower, and nothing else changes. A caller's own session never uses any of it.

| piece | what it buys | without it |
|---|---|---|
| `Connector.send`, `RequestHead` | 75 µs a call: what is the same for each call of a client is worked out once | `request` |
| `Handler` | the parser is not fed empty bytes after each read | it is |
| `reader_of` | three calls of Python a read, 1 % of what a token costs | `StreamReader.read_nowait` |
| `loop_of` | a caller's session of another loop is refused | it may work by chance |

The risk of each is the same: another version of aiohttp may call, name or order these things otherwise. Hence the
switch, and the run of all tests with it off.
"""

from __future__ import annotations

import asyncio
import functools
import re
import weakref
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

_MAX_BODY = 32 * 1024  # bytes of a request's body; aiohttp splits what exceeds the transport's 64 KiB
_MAX_HEADS = 100
# Headers that change how a request is sent.
_SENT_OTHERWISE = frozenset(
    {"connection", "content-encoding", "content-length", "expect", "transfer-encoding", "upgrade"}
)
_REFUSED = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # by aiohttp, with an error of its own
_NO_TIMER = TimerNoop()

enabled = aiohttp.__version__.startswith(_TESTED) and (
    vars(client_proto)["HttpResponseParser"] is not http_parser.HttpResponseParserPy
)
"""The switch."""


class Handler(ResponseHandler):
    """aiohttp's protocol, whose parser is not told of pauses.

    The parser remembers a pause that came when it had taken all there was, and holds back most of what comes after the
    pause until it is fed again. What it holds back has been received all the same.
    """

    __slots__ = ()

    def pause_reading(self) -> None:
        """Read nothing more from the socket; what has been read is parsed."""
        self._reading_paused = True
        self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002  # as aiohttp has it
        """Read on, if reading was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


def reader_of(content: aiohttp.StreamReader) -> Callable[[], bytes]:
    """Return what takes some of what has arrived of a body: usually all, and b"" or an IndexError if nothing has."""
    if enabled:
        inside: Any = content
        return functools.partial(inside._read_nowait_chunk, -1)  # noqa: SLF001  # what `read_nowait` calls
    return content.read_nowait


def loop_of(session: aiohttp.ClientSession) -> asyncio.AbstractEventLoop | None:
    """Return the event loop that a session belongs to; None if nobody knows."""
    loop: asyncio.AbstractEventLoop | None = getattr(session, "_loop", None) if enabled else None
    return loop


class _Bytes(bytes):
    """The beginning of a request, which a traceback with captured locals does not show: it has the key."""

    def __repr__(self) -> str:
        return "b'…'"


class _Written:
    """Stands in for the writer of a request that has been written."""

    output_size = 0


class RequestHead:
    """What requests with the same URL, headers and key have in common.

    Attributes:
        loop: The event loop of the connector.
        request: What the connector is asked for a connection with.
        usual: Whether `Connector.send` may write such requests; some headers are better left to aiohttp.
        start: A request's bytes up to the length of its body.
    """

    __slots__ = ("__weakref__", "loop", "request", "start", "usual")

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
        lines = [f"{call.method} {url.raw_path_qs} HTTP/1.1"]
        lines += [
            f"{name}: {value}" for name, value in self.request.headers.items() if name != hdrs.CONTENT_LENGTH
        ]
        self.usual = _SENT_OTHERWISE.isdisjoint(map(str.lower, call.headers)) and not any(
            map(_REFUSED.search, lines)
        )
        self.start = _Bytes("\r\n".join([*lines, f"{hdrs.CONTENT_LENGTH}: "]).encode(errors="replace"))


class Connector(connector.Connector):
    """A pool of connections that writes requests itself.

    Attributes:
        timer: Enforces the deadlines of attempts.
        direct: Whether requests may be written here: nothing else has to see them on their way.
    """

    direct = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = functools.partial(Handler, loop=self._loop)
        self.timer = DeadlineTimer.of(self._loop)
        self._heads: dict[object, RequestHead] = {}

    def head_of(self, session: aiohttp.ClientSession, call: Call) -> RequestHead | None:
        """Return what a call has in common with others; None if aiohttp is to send the call."""
        body = call.body
        if not self.direct or body is None or len(body) > _MAX_BODY or self._closed or _replaced():
            return None
        # Nearly always the call has the same template as one before it, and the look-up by value is spared.
        reference: weakref.ref[RequestHead] | None = call.prepared.get("head")
        head = None if reference is None else reference()
        if head is None or head.loop is not self._loop:
            head = self._head_like(session, call)
            call.prepared["head"] = weakref.ref(head)  # strongly, a client would keep loops that have ended
        return head if head.usual else None

    def _head_like(self, session: aiohttp.ClientSession, call: Call) -> RequestHead:
        """Return the head of calls with equal URL, headers and key."""
        key = (call.method, call.url, call.key, tuple(call.query.items()), tuple(call.headers.items()))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()  # some header is another one in each call
            head = self._heads[key] = RequestHead(session, call)
        return head

    async def send(
        self, session: aiohttp.ClientSession, head: RequestHead, call: Call
    ) -> aiohttp.ClientResponse:
        """Send a request; return the response once its head is there.

        Raises:
            aiohttp.ClientError: As aiohttp's own `request`; and `OSError` and `ValueError`.
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
                request_info=request.request_info,
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
    """Whether somebody has put something in the place of aiohttp's way to send: a mock, or an instrument."""
    request: Any = aiohttp.ClientSession._request  # noqa: SLF001  # where all of them do so
    names = request.__globals__ if isinstance(request, FunctionType) else {}
    return names.get("__name__") != client.__name__
