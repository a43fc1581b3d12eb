"""The one place that reaches into aiohttp: what its connections are, and what they tell of a loss."""

from __future__ import annotations

import asyncio
import functools
import socket
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import AbstractCookieJar, AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from ..config import Limits
from ..inflate import content_coding
from .watch import tracing

__all__ = [
    "TooManyInterimError",
    "UnsentError",
    "authorizing",
    "body_of",
    "make_session",
    "most_interim",
    "only_fresh",
]

# Pooled connections are dropped before the servers we know drop theirs.
_IDLE_SECONDS = 14.0
# When nothing is heard of a peer: the first probe after so many seconds, then one each, so many in all.
_PROBE_AFTER, _PROBE_EVERY, _PROBES = 60, 15, 4
_WRITTEN_AT_ONCE = 256 * 1024  # bytes of a request's body
_OK = 200
_INTERIM = range(100, 200)
_SWITCHING = 101
_END_OF_HEAD = b"\r\n\r\n"

most_interim: ContextVar[int] = ContextVar("most_interim")
"""How many interim responses the request of this task may get."""

only_fresh: ContextVar[bool] = ContextVar("only_fresh", default=False)
"""Whether the request of this task wants a new connection: where one of the pool was dead, the others may be too."""


def authorizing(value: str) -> aiohttp.ClientMiddlewareType:
    """Make a middleware that sets ``Authorization`` last, over what aiohttp found in ``.netrc``.

    Args:
        value: The header's value.
    """

    async def put(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = value
        return await handler(request)

    return put


class UnsentError(aiohttp.ClientConnectionError):
    """The connection was gone before the request could be written; never leaves the library."""


class TooManyInterimError(HttpProcessingError):
    """More interim responses came than are allowed; never leaves the library."""


class _LargeBody(aiohttp.payload.Payload):
    """A request's body of megabytes, written in pieces, so that the loop and an early refusal get their turn."""

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        view = memoryview(self._value)
        for start in range(0, len(view), _WRITTEN_AT_ONCE):
            await writer.write(view[start : start + _WRITTEN_AT_ONCE])


def body_of(data: bytes | None) -> bytes | aiohttp.payload.Payload | None:
    """Return a request's body as aiohttp is to write it."""
    return data if data is None or len(data) <= _WRITTEN_AT_ONCE else _LargeBody(data)


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

    aiohttp's parser loses the head, and the body so far, if what it is given at once ends in garbage.
    """

    __slots__ = ("_handler", "_parser")

    def __init__(self, handler: _Handler, parser: Any) -> None:
        self._handler = handler
        self._parser = parser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[tuple[Any, ...], bool, bytes]:
        """Parse; what is wrong behind a head is told once the head has been taken."""
        parser, handler = self._parser, self._handler
        messages: tuple[Any, ...] = ()
        while (end := data.find(_END_OF_HEAD) + len(_END_OF_HEAD)) >= len(_END_OF_HEAD):
            heads, upgraded, tail = parser.feed_data(data[:end])
            messages += tuple(heads)
            data = data[end:]
            if upgraded:
                return messages, True, tail + data
            if heads and not _is_interim(heads[-1][0].code):
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


class _Handler(ResponseHandler):
    """aiohttp's protocol, more careful: interim responses, losses, and replies that nobody asked for."""

    interim_left = 0

    def set_response_params(self, **params: Any) -> None:
        """Prepare for a reply."""
        super().set_response_params(**params)
        self.use(_HeadFirst(self, self._parser))

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
        if _is_interim(code):
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
        self.use(_NOBODY)

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


class _Response(aiohttp.ClientResponse):
    """aiohttp's response, which tells its connection how many interim responses may come."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head."""
        protocol: _Handler = connection.protocol
        if protocol.is_eof():
            raise UnsentError
        protocol.interim_left = most_interim.get()
        await super().start(connection)
        self.content.on_eof(protocol.rest)
        return self


def make_session(*, max_connections: int, trust_env: bool, limits: Limits) -> aiohttp.ClientSession:
    """Open a session: no cookies, no decompression, no header of aiohttp's own, bounded replies.

    Args:
        max_connections: Connections at a time.
        trust_env: Let aiohttp read proxies and ``.netrc`` from the environment.
        limits: Sizes of headers, unless a request has others.
    """
    connector = aiohttp.TCPConnector(
        limit=max_connections, limit_per_host=0, keepalive_timeout=_IDLE_SECONDS, socket_factory=_open_socket
    )
    factory: Any = functools.partial(_Handler, loop=asyncio.get_running_loop())
    connector._factory = factory  # noqa: SLF001  # aiohttp has no public way
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=_no_cookies(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=trust_env,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        trace_configs=[tracing()],
        response_class=_Response,
        max_line_size=limits.header_bytes,
        max_field_size=limits.header_bytes,
        max_headers=limits.headers,
    )


def _open_socket(address: Any) -> socket.socket:
    """Make a socket that finds out when its peer has vanished without a word."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not every system lets these be set.
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER),
        ("TCP_KEEPINTVL", _PROBE_EVERY),
        ("TCP_KEEPCNT", _PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _no_cookies() -> AbstractCookieJar:
    return aiohttp.DummyCookieJar()
