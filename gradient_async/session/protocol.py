"""What aiohttp's connections are here: careful about heads of replies, losses, and what nobody asked for."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp import client_proto, http_parser
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from ..config import Limits
from .inflate import content_coding

__all__ = [
    "Response",
    "TooManyInterimError",
    "UnsentError",
    "discard",
    "handler_class",
    "known",
    "most_interim",
    "only_fresh",
]

_OK = 200
_INTERIM = range(100, 200)
_SWITCHING = 101
_REQUEST_TIMEOUT = 408
_END_OF_HEAD = b"\r\n\r\n"
_HTTP = b"HTTP/"
_SHOWN = 80  # bytes of what is no HTTP

_KNOWN = "3.14."

most_interim: ContextVar[int] = ContextVar("most_interim", default=Limits().interim_responses)
"""How many interim responses the request of this task may get."""

only_fresh: ContextVar[bool] = ContextVar("only_fresh", default=False)
"""Whether the request of this task wants a new connection: where one of the pool was dead, the others may be too."""


class UnsentError(aiohttp.ClientConnectionError):
    """The connection was gone before the request could be written; never leaves the library."""


class TooManyInterimError(HttpProcessingError):
    """More interim responses came than are allowed; never leaves the library."""


def _is_interim(code: int) -> bool:
    return code in _INTERIM and code != _SWITCHING


class _Nobody:
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


_NOBODY = _Nobody()


class _HeadFirst:
    """Stands before the parser until a reply's head is parsed, and feeds that apart from what follows it.

    aiohttp's parser loses the head, and the body so far, if what it is given at once ends in garbage. The one in
    pure Python also waits for the end of what is no HTTP, and does not tell whether a reply had begun.
    """

    __slots__ = ("_handler", "_parser", "_start")

    def __init__(self, handler: _Handler, parser: Any) -> None:
        self._handler = handler
        self._parser = parser
        self._start = b""  # what has come, as far as it tells whether it is HTTP

    def feed_data(self, data: bytes) -> tuple[tuple[Any, ...], bool, bytes]:
        """Parse; what is wrong behind a head is told once the head has been taken."""
        parser, handler = self._parser, self._handler
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
            if heads and ((code := heads[-1][0].code) >= _OK or not _is_interim(code)):
                handler.use(parser)
                break
        more: Any = ()
        upgraded, tail = False, b""
        if data or not messages:
            try:
                more, upgraded, tail = parser.feed_data(data)
            except Exception as error:
                if not messages:
                    raise
                handler.break_off(error)
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


class _Handler(ResponseHandler):
    """aiohttp's protocol, more careful: interim responses, losses, and replies that nobody asked for."""

    __slots__ = ("interim_left",)

    interim_left: int

    def set_response_params(self, **params: Any) -> None:
        """Prepare for a reply."""
        self.interim_left = 0
        super().set_response_params(**params)
        self._parser: Any = _HeadFirst(self, self._parser)

    def use(self, parser: Any) -> None:
        """Let this parse what comes from now on."""
        self._parser = parser

    def break_off(self, error: Exception) -> None:
        """End the connection once what has been parsed is taken."""
        self.force_close()
        self._loop.call_soon(self._broken, HttpProcessingError(message=str(getattr(error, "message", error))))

    def _broken(self, error: HttpProcessingError) -> None:
        payload = self._payload
        self.close()
        self._payload = payload  # closing forgets who reads, and is to forget neither them nor the error
        self.set_exception(error)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """End what is being read as well: aiohttp leaves the reader of a malformed body waiting."""
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError(str(exc)))
        super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))

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
            self.force_close()  # what it speaks from now on, or how much of a request it got, is anybody's guess
        if len(set(headers.getall("content-length", ()))) > 1:
            self.close()
            self.set_exception(HttpProcessingError(message="it has two different Content-Length headers"))
            return
        if code < _OK and _is_interim(code):
            self.interim_left -= 1
            if self.interim_left < 0:
                self.close()
                self.set_exception(TooManyInterimError())
                return
        super().feed_data(data, size)

    def is_connected(self) -> bool:
        """Whether the pool may give it out; it closes what it may not."""
        return super().is_connected() and not only_fresh.get()

    def rest(self) -> None:
        """A reply is over: what comes before the next request belongs to none."""
        self._parser = _NOBODY

    def discard(self) -> None:
        """Close it if it is between replies: another request may have it by now."""
        parser: Any = self._parser
        if parser is _NOBODY:
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


class _KnownHandler(_Handler):
    """The same for an aiohttp that is known: it asks to read on after each read, and feeds its parser nothing then.

    Its parser is not told of pauses. It would remember one that came when it had taken all there was, and hold back
    most of what comes after it until it is fed again; and what it holds back has been received all the same.
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


class _PureHandler(_Handler):
    """The same for aiohttp's parser in pure Python.

    That remembers a pause which came when it had taken all there was, and holds back what comes after it.
    """

    __slots__ = ()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002  # as aiohttp has it
        """Read on."""
        body = getattr(self._parser, "_payload_parser", None)
        if body is not None:
            body._paused = False  # noqa: SLF001  # aiohttp has no public way
        super().resume_reading(resume_parser)


class Response(aiohttp.ClientResponse):
    """aiohttp's response, which tells its connection how many interim responses may come."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head."""
        protocol: _Handler = connection.protocol
        if protocol.is_eof():
            raise UnsentError
        protocol.interim_left = most_interim.get()
        await super().start(connection)
        self.content.on_eof(protocol.rest)
        self.protocol = protocol
        return self


def known() -> bool:
    """Whether this version of aiohttp is known well enough to reach into it; of others only what is public is used."""
    return aiohttp.__version__.startswith(_KNOWN)


def discard(response: aiohttp.ClientResponse) -> None:
    """Close the connection that a reply came over, though it may rest in the pool by now.

    Args:
        response: The reply; of a session of the caller's own, nothing is done.
    """
    protocol: _Handler | None = getattr(response, "protocol", None)
    if protocol is not None:
        protocol.discard()


def handler_class() -> type[ResponseHandler]:
    """Return the class of connections that suits the parser in use."""
    pure = vars(client_proto)["HttpResponseParser"] is http_parser.HttpResponseParserPy
    if pure:
        return _PureHandler
    return _KnownHandler if known() else _Handler
