"""The recorder's connection to the server that it asks: one request each, with the body as it was read."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import zlib
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from .connection import Connection
from .request import MAX_CHUNK_LINE, MAX_HEAD, BadRequestError, Headers, Request, chunk_size
from .script import NO_BODY, End

_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-9][0-9]{2})(?: .*)?")
_PORTS = {"http": 80, "https": 443}
# Headers that concern the client's own connection, and are not passed on. `accept-encoding` is among them because the
# recorder asks for replies without compression: the reads of a plain body show when the server sent each part.
_OWN = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_GZIP = b"\x1f\x8b"
_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


def parse_upstream(url: str) -> SplitResult:
    """Split the URL of a server.

    Raises:
        ValueError: If the scheme is neither http nor https, or if the URL has more than scheme, host, port and path.
    """
    parts = urlsplit(url)
    # `parts.port` raises a ValueError for a port out of range.
    if parts.scheme not in _PORTS or not parts.hostname or parts.port == 0:
        raise ValueError("upstream: give a URL such as https://inference.do-ai.run")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("upstream: give scheme, host, port and path only; a key belongs to the client")
    return parts


class ReplyBody:
    """Removes the HTTP framing and the compression from the body of a reply. Pure: bytes in, bytes out.

    Args:
        request: The request that the reply answers.
        status: Status of the reply.
        headers: Headers of the reply.

    Attributes:
        chunked: Whether the body is sent in HTTP chunks.
        length: The length in the headers, or None.
        coded: Whether the body is compressed.
        done: Whether the whole body has been received.
        broken: Whether the framing or the compression is malformed, so that the rest cannot be read.
    """

    def __init__(self, request: Request, status: int, headers: Headers) -> None:
        length = headers.get("content-length", "").partition(",")[0].strip()
        self.chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        self.length = int(length) if length.isdecimal() and not self.chunked else None
        self.coded = headers.get("content-encoding", "").strip().lower() in _CODINGS
        self.done = request.method == "HEAD" or status in NO_BODY or self.length == 0
        self.broken = False
        self._unread = bytearray()
        self._left = self.length or 0  # bytes until the end of the body, or of its current HTTP chunk
        self._line: Literal["size", "break", "trailer"] = "size"  # the next line of chunked framing
        self._inflate = _new_inflater()

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the connection; return the bytes of the body in them."""
        self._unread += data
        if self.chunked:
            data = self._take_chunks()
        else:
            data = self._take(len(self._unread) if self.length is None else self._left)
            self.done = self.length is not None and not self._left
        return self._inflated(data) if self.coded else data

    def close(self) -> bool:
        """Note that the connection has ended; return whether the body is whole."""
        by_close = not self.chunked and self.length is None
        return by_close and not self.broken and (not self.coded or self._inflate.eof)

    def _take(self, count: int) -> bytes:
        data = bytes(self._unread[:count])
        del self._unread[:count]
        self._left -= len(data)
        return data

    def _take_chunks(self) -> bytes:
        parts: list[bytes] = []
        while not self.done and not self.broken:
            if self._left:
                if not self._unread:
                    break
                parts.append(self._take(self._left))
                continue
            end = self._unread.find(b"\r\n") + 2
            if end < 2:  # noqa: PLR2004  # no line break yet
                self.broken = len(self._unread) > MAX_CHUNK_LINE
                break
            line = bytes(self._unread[:end])
            del self._unread[:end]
            self._take_line(line)
        return b"".join(parts)

    def _take_line(self, line: bytes) -> None:
        if self._line == "trailer":
            self.done = line == b"\r\n"
        elif self._line == "break":
            self.broken = line != b"\r\n"
            self._line = "size"
        else:
            try:
                self._left = chunk_size(line)
            except BadRequestError:
                self.broken = True
            self._line = "break" if self._left else "trailer"

    def _inflated(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        try:
            while data:
                if self._inflate.eof:
                    if not data.startswith(_GZIP):  # the rest is padding after the last member
                        break
                    self._inflate = _new_inflater()
                parts.append(self._inflate.decompress(data))
                data = self._inflate.unused_data
        except zlib.error:
            self.broken = True
        if self.done and not self._inflate.eof:
            self.done, self.broken = False, True
        return b"".join(parts)


def _new_inflater() -> Any:  # zlib does not export the type
    return zlib.decompressobj(wbits=47)  # detects gzip and zlib by their headers


class Upstream(Connection):
    """A connection to the server, for one request and its reply."""

    def __init__(self) -> None:
        super().__init__(0, _nobody, _nobody)
        self._error: Exception | None = None

    @classmethod
    async def open(cls, server: SplitResult) -> Self:
        """Connect to the server of a URL.

        Raises:
            OSError: If the server cannot be reached.
        """
        host = server.hostname or ""
        context = await asyncio.to_thread(ssl.create_default_context) if server.scheme == "https" else None
        port = server.port or _PORTS[server.scheme]
        try:
            _, upstream = await asyncio.get_running_loop().create_connection(cls, host, port, ssl=context)
        except OSError as error:
            raise OSError(f"upstream {host}:{port} cannot be reached: {error}") from error
        return upstream

    def send(self, request: Request, server: SplitResult) -> None:
        """Send a request to the server; the reply may arrive before the whole request is sent."""
        path = server.path.rstrip("/")
        if request.path.startswith("/v1/"):  # the server's URL may end with "/v1", too
            path = path.removesuffix("/v1")
        listed = {option.strip().lower() for option in request.headers.get("connection", "").split(",")}
        lines = [
            f"{request.method} {path}{request.target} HTTP/1.1",
            f"host: {server.netloc}",
            "accept-encoding: identity",
            "connection: close",
            *(
                f"{name}: {value}"
                for name, value in request.headers.pairs
                if name.lower() not in _OWN | listed
            ),
        ]
        if request.body or request.method not in {"GET", "HEAD"}:
            lines.append(f"content-length: {len(request.body)}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + request.body)

    async def head(self, request: Request) -> tuple[int, Headers, ReplyBody] | None:
        """Read the head of the reply; return None if the connection ends early, or if the head is not HTTP/1."""
        status = 0
        headers = Headers(())
        while status < 200:  # noqa: PLR2004  # interim replies come before the reply itself
            try:
                data = await self.read_until(b"\r\n\r\n", MAX_HEAD)
            except ConnectionResetError:
                return None
            first, *lines = (data or b"").decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            start = _STATUS_LINE.fullmatch(first)
            if start is None:
                return None
            status = int(start[1])
            fields = [line.partition(":") for line in lines]
            headers = Headers((name.strip(), value.strip()) for name, _, value in fields)
        return status, headers, ReplyBody(request, status, headers)

    async def read(self, body: ReplyBody) -> tuple[bytes, End | None]:
        """Return the bytes of the body in one read, and how the reply ended; None if it has not ended."""
        while True:
            with contextlib.suppress(ConnectionResetError):
                if not self._unread:
                    await self._read_more()
            data = body.feed(self._take(len(self._unread)))
            if body.done:
                return data, "eof"
            if body.broken:
                return data, "cut"
            if self.closed:
                return data, "eof" if body.close() and self._error is None else self.loss
            if data:
                return data, None

    @property
    def loss(self) -> End:
        """How the connection ended before the reply was whole."""
        return "reset" if isinstance(self._error, ConnectionError) else "cut"

    def eof_received(self) -> bool:
        """Note that the server sends nothing more, and let the transport close: the recorder has nothing left to write."""
        self._peer_left()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember whether the connection was reset."""
        self._error = exc
        super().connection_lost(exc)


def _nobody(connection: Connection) -> None:
    """Do nothing: the recorder opens and closes its connections itself, and needs no callback."""
