"""All use of what aiohttp does not document, behind one switch.

`enabled` is the switch: on for the versions of aiohttp that this was tested with and for its parser in C, off for any
other. With the switch off, sessions are plain aiohttp sessions and the rest of the library uses aiohttp's public way.
A caller's own session always takes the public way.

| piece | what it buys | without it |
|---|---|---|
| `Connection.data_received`, `waiter` | a read waits on one future, without aiohttp's two coroutines a read | `readany` |
| `Connection.pause_reading`, `resume_reading` | the parser is not fed empty bytes after each read | it is |
| `Connector.send`, `RequestHead` | 75 µs a call: what is the same for each call of a client is worked out once | `request` |
| `_HeadFirst` | a head that garbage follows is not lost; what is no HTTP is told at once, with its first bytes | aiohttp's words |
| `Connection.feed_message` | limits on interim responses, two lengths refused, portals' connections not reused | by time |
| `Connection.connection_lost` | tells a reply that had begun from none, and a reset body from one that ended | by words |
| `IdleParser` | a reply that nobody asked for ends its connection, and is not taken for the next | it may be |

The risk of each is the same: another version of aiohttp may call, name or order these things otherwise. Hence the
switch, and the run of all tests with it off.
"""

from __future__ import annotations

import asyncio
import functools
import re
from contextvars import ContextVar
from types import FunctionType
from typing import Any

import aiohttp
from aiohttp import client, client_proto, hdrs, http_parser
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import TimerNoop
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from ..config import Limits
from ..secrets import HiddenHeader
from .call import Call
from .deadlines import AttemptProgress, DeadlineTimer
from .exceptions import TooManyInterimError, UnsentError
from .inflate import content_coding

_TESTED = "3.14."

_OK = 200
_SWITCHING = 101
_REQUEST_TIMEOUT = 408
_INTERIM = frozenset(range(100, 200)) - {_SWITCHING}
_END_OF_HEAD = b"\r\n\r\n"
_HTTP = b"HTTP/"
_SHOWN = 80  # bytes of what is no HTTP

_MAX_BODY = 32 * 1024  # bytes of a request's body; aiohttp splits what exceeds the transport's 64 KiB
_MAX_HEADS = 100
# Headers that change how a request is sent.
_SENT_OTHERWISE = frozenset(
    {"connection", "content-encoding", "content-length", "expect", "transfer-encoding", "upgrade"}
)
_REFUSED = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # by aiohttp, with an error of its own
_NO_TIMER = TimerNoop()
_NO_LIMIT = aiohttp.ClientTimeout(
    total=None
)  # the progress of an attempt knows when connecting has to be over

enabled = aiohttp.__version__.startswith(_TESTED) and (
    vars(client_proto)["HttpResponseParser"] is not http_parser.HttpResponseParserPy
)
"""The switch."""

max_interim: ContextVar[int] = ContextVar("max_interim", default=Limits().interim_responses)
"""How many interim responses the request of this task may get."""

new_connection: ContextVar[bool] = ContextVar("new_connection", default=False)
"""Whether the request of this task wants a new connection: where one of the pool was dead, the others may be too."""


# Replies


class IdleParser:
    """Stands in for the parser between replies: whatever comes then ends the connection."""

    def feed_data(self, data: bytes) -> tuple[tuple[()], bool, bytes]:
        """Refuse data; reading that is merely resumed brings none."""
        if data:
            raise HttpProcessingError(message="a reply that nobody asked for")
        return (), False, b""

    def feed_eof(self) -> None:
        """Take the end of the connection."""

    def pause_reading(self) -> None:
        """Take a pause."""


_IDLE = IdleParser()


class _HeadFirst:
    """Stands before the parser until a reply's head is parsed, and feeds the head apart from what follows.

    aiohttp's parser loses the head, and the body so far, if what it is given at once ends in garbage.
    """

    __slots__ = ("_connection", "_parser", "_start")

    def __init__(self, connection: Connection, parser: Any) -> None:
        self._connection = connection
        self._parser = parser
        self._start = b""  # the first bytes of the reply

    def feed_data(self, data: bytes) -> tuple[tuple[Any, ...], bool, bytes]:
        """Parse; what is wrong behind a head is told once the head has been taken."""
        parser, connection = self._parser, self._connection
        if not self._start and data.startswith(_HTTP):
            self._start = data[:_SHOWN]
        elif len(self._start) < len(_HTTP):
            data = self._begin(data)
        messages: tuple[Any, ...] = ()
        while (end := data.find(_END_OF_HEAD) + len(_END_OF_HEAD)) >= len(_END_OF_HEAD):
            heads, upgraded, tail = parser.feed_data(data[:end])
            messages += tuple(heads)
            data = data[end:]
            if upgraded:
                return messages, True, tail + data
            if heads and heads[-1][0].code not in _INTERIM:
                connection.use_parser(parser)
                break
        more: Any = ()
        upgraded, tail = False, b""
        if data or not messages:
            try:
                more, upgraded, tail = parser.feed_data(data)
            except Exception as error:
                if not messages:
                    raise
                connection.break_off(error)
        return messages + tuple(more), upgraded, tail

    def _begin(self, data: bytes) -> bytes:
        """Look at the first bytes; return the data, without line ends before the reply."""
        if not self._start:
            data = data.lstrip(b"\r\n")
        start = self._start = (self._start + data)[:_SHOWN]
        if not (start.startswith(_HTTP) or _HTTP.startswith(start)):
            raise HttpProcessingError(message=f"it begins with {start.decode('utf-8', 'replace')!r}")
        return data

    def feed_eof(self) -> Any:
        """Take the end of the connection; what is returned, if anything, says that a reply had begun."""
        return self._parser.feed_eof() or self._start or None


class Connection(ResponseHandler):
    """aiohttp's protocol of one connection, with what the table above lists.

    Attributes:
        waiter: What a read awaits; resolved whenever anything happens to the connection.
        interim_left: How many interim responses may still come before the reply.
    """

    __slots__ = ("interim_left", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.interim_left = 0
        self.waiter: asyncio.Future[None] | None = None

    def set_response_params(self, **params: Any) -> None:
        """Prepare for a reply."""
        self.interim_left = 0
        self.waiter = None
        super().set_response_params(**params)
        self._parser: Any = _HeadFirst(self, self._parser)

    def notify(self) -> None:
        """Let the read that waits find out what happened."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take what the socket brought."""
        super().data_received(data)
        waiter = self.waiter
        if waiter is not None:  # `notify`, without the call
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def use_parser(self, parser: Any) -> None:
        """Let this parse what comes from now on."""
        self._parser = parser

    def break_off(self, error: Exception) -> None:
        """End the connection once what has been parsed is taken."""
        self.force_close()
        self._loop.call_soon(self._broken, HttpProcessingError(message=str(getattr(error, "message", error))))

    def _broken(self, error: HttpProcessingError) -> None:
        payload = self._payload
        self.close()
        self._payload = payload  # closing forgets who reads, who has to get the error
        self.set_exception(error)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """End what is being read as well: aiohttp leaves the reader of a malformed body waiting."""
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError(str(exc)))
        super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))
        self.notify()

    def close(self) -> None:
        """Close; a read that waits fails at once."""
        self._fail_read(self._payload)
        super().close()

    def abort(self) -> None:
        """The same, without a farewell to the peer."""
        self._fail_read(self._payload)
        super().abort()

    def _fail_read(self, payload: aiohttp.StreamReader | None) -> None:
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientConnectionError("the connection was closed by this side"))
        self.notify()

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a reply's head; interim ones are counted."""
        if self.exception() is not None:
            return  # refused by a head before it, which came in the same piece
        message = data[0]
        code = message.code
        headers = message.headers
        if code == _OK and (
            # A login page or a portal answers in the server's place: the connection leads elsewhere.
            "html" in headers.get("content-type", "")
            # Whatever speaks a coding that nobody asked for has its own idea of HTTP.
            or content_coding(headers.get("content-encoding", "")) not in {None, "gzip"}
        ):
            self.force_close()
        if code in {_SWITCHING, _REQUEST_TIMEOUT}:
            # What the connection speaks from now on, or how much of a request the server got, nobody knows.
            self.force_close()
        if len(set(headers.getall("content-length", ()))) > 1:
            self.close()
            self.set_exception(HttpProcessingError(message="it has two different Content-Length headers"))
            return
        if code in _INTERIM:
            self.interim_left -= 1
            if self.interim_left < 0:
                self.close()
                self.set_exception(TooManyInterimError())
                return
        super().feed_data(data, size)

    def is_connected(self) -> bool:
        """Whether the pool may give it out; it closes what it may not."""
        return super().is_connected() and not new_connection.get()

    def on_complete(self) -> None:
        """Note that a reply is over: what comes before the next request belongs to none."""
        self._parser = _IDLE

    def discard(self) -> None:
        """Close it if it is between replies: another request may have it by now."""
        parser: Any = self._parser
        if parser is _IDLE:
            self.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell what aiohttp does not: whether a reply had begun, and a reset from the end of a body."""
        payload = self._payload
        if payload is None or payload.is_eof():
            # Between replies a reset is told like an end: only then aiohttp says whether a reply had begun.
            exc = None
        elif isinstance(exc, OSError):
            # A body that ends with the connection would seem to have ended well.
            payload.set_exception(aiohttp.ClientOSError(*exc.args))
        super().connection_lost(exc)
        self.notify()

    # aiohttp's parser is not told of pauses: it remembers one that came when it had taken all there was, and holds back
    # most of what comes after the pause until it is fed again. What it holds back has been received all the same.

    def pause_reading(self) -> None:
        """Read nothing more from the socket; what has been read is parsed."""
        self._reading_paused = True
        self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002  # as aiohttp has it
        """Read on, if reading was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class Response(aiohttp.ClientResponse):
    """aiohttp's response, which knows its connection."""

    connection_used: Connection | None = None

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head."""
        used: Connection = connection.protocol
        if used.is_eof():
            raise UnsentError
        used.interim_left = max_interim.get()
        await super().start(connection)
        self.content.on_eof(used.on_complete)
        self.connection_used = used
        return self


def connection_of(response: aiohttp.ClientResponse) -> Connection | None:
    """Return the connection that a reply comes over; None if it is one of aiohttp's own."""
    return response.connection_used if isinstance(response, Response) else None


def discard(response: aiohttp.ClientResponse) -> None:
    """Close the connection that a reply came over, though it may rest in the pool by now."""
    connection = connection_of(response)
    if connection is not None:
        connection.discard()


def loop_of(session: aiohttp.ClientSession) -> asyncio.AbstractEventLoop | None:
    """Return the event loop that a session belongs to; None if nobody knows."""
    loop: asyncio.AbstractEventLoop | None = getattr(session, "_loop", None) if enabled else None
    return loop


# Requests


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
        request: What the connector is asked for a connection with.
        usual: Whether `Connector.send` may write such requests; some headers are better left to aiohttp.
        start: A request's bytes up to the length of its body.
    """

    __slots__ = ("request", "start", "usual")

    def __init__(self, session: aiohttp.ClientSession, call: Call) -> None:
        url = url_of(call)
        self.request = aiohttp.ClientRequest(
            call.method,
            url,
            headers=headers_of(call),
            skip_auto_headers=session.skip_auto_headers,
            data=b"",
            loop=asyncio.get_running_loop(),
        )
        lines = [f"{call.method} {url.raw_path_qs} HTTP/1.1"]
        lines += [
            f"{name}: {value}" for name, value in self.request.headers.items() if name != hdrs.CONTENT_LENGTH
        ]
        self.usual = _SENT_OTHERWISE.isdisjoint(map(str.lower, call.headers)) and not any(
            map(_REFUSED.search, lines)
        )
        self.start = _Bytes("\r\n".join([*lines, f"{hdrs.CONTENT_LENGTH}: "]).encode(errors="replace"))


class Connector(aiohttp.TCPConnector):
    """The pool of connections of one of the library's own sessions.

    Attributes:
        timer: Enforces the deadlines of attempts.
        direct: Whether requests may be written here: nothing else has to see them on their way.
    """

    direct = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]  # aiohttp's own types are partial
        self._factory: Any = functools.partial(Connection, loop=self._loop)
        self.timer = DeadlineTimer.of(self._loop)
        self._heads: dict[object, RequestHead] = {}

    def head_of(self, session: aiohttp.ClientSession, call: Call) -> RequestHead | None:
        """Return what a call has in common with others; None if aiohttp is to send the call."""
        body = call.body
        if not self.direct or body is None or len(body) > _MAX_BODY or self._closed or _replaced():
            return None
        key = (call.method, call.url, call.key, tuple(call.query.items()), tuple(call.headers.items()))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()  # some header is another one in each call
            head = self._heads[key] = RequestHead(session, call)
        return head if head.usual else None

    async def send(
        self, session: aiohttp.ClientSession, head: RequestHead, call: Call, progress: AttemptProgress
    ) -> aiohttp.ClientResponse:
        """Send a request; return the response once its head is there.

        Raises:
            aiohttp.ClientError: As aiohttp's own `request`; and `OSError` and `ValueError`.
        """
        request = head.request
        traces: Any = (progress,)
        connection = await self.connect(request, traces=traces, timeout=_NO_LIMIT)
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
            if progress.reused:
                progress.sending()
            else:
                await progress.send_request_headers()
            body = call.body or b""
            _write(used, _Bytes(b"%b%d\r\n\r\n%b" % (head.start, len(body), body)))
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


def _write(connection: Any, data: bytes) -> None:
    if connection.is_eof():
        raise UnsentError
    if connection.transport is None or connection.transport.is_closing():
        raise aiohttp.ClientConnectionResetError("the connection is closing")
    connection.transport.write(data)


def _replaced() -> bool:
    """Whether somebody has put something in the place of aiohttp's way to send: a mock, or an instrument."""
    request: Any = aiohttp.ClientSession._request  # noqa: SLF001  # where all of them do so
    names = request.__globals__ if isinstance(request, FunctionType) else {}
    return names.get("__name__") != client.__name__


# What both ways of sending have in common


def headers_of(call: Call) -> CIMultiDict[str]:
    """Return the headers of a call, its key among them."""
    headers = CIMultiDict[str]()
    if call.key is not None:
        headers["Authorization"] = HiddenHeader(f"Bearer {call.key.reveal()}")
    headers.update(call.headers)
    return headers


def url_of(call: Call) -> URL:
    """Return where a call goes to."""
    return URL(call.url).update_query(call.query)
