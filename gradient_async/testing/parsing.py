"""HTTP/1 requests off the wire, within limits, and strict: what is not clearly HTTP is refused."""

from __future__ import annotations

import re
import time

from .request import Headers, Request
from .wire import TooLargeError, Wire

__all__ = ["MOST_BODY", "MOST_HEAD", "BadRequestError", "read_body", "read_head"]

MOST_HEAD = 64 * 1024
"""Most bytes of request line and headers together."""

MOST_BODY = 64 * 1024 * 1024
"""Most bytes of a body."""

_MOST_CHUNK_LINE = 1024
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/(1\.[01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")


class BadRequestError(Exception):
    """The request is refused, and the connection closed after the reply that says so.

    Args:
        status: Status code of that reply.
        reason: What is wrong, for its body.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


async def read_head(wire: Wire, connection: int) -> Request:
    """Read request line and headers; the body is left on the wire.

    Args:
        wire: Where from.
        connection: Number of the connection, for the request.

    Raises:
        BadRequestError: If it is not HTTP/1, or too large.
        ConnectionResetError: If the peer closes before it is whole.
    """
    try:
        head = await wire.read_until(b"\r\n\r\n", MOST_HEAD)
    except TooLargeError:
        raise BadRequestError(431, f"the headers exceed {MOST_HEAD} bytes, or never end") from None
    first, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequestError(400, "the request line is not HTTP/1")
    method, target, version = line.groups()
    pairs: list[tuple[str, str]] = []
    for text in rest:
        field = _FIELD.fullmatch(text)
        if field is None:
            raise BadRequestError(400, "a header line is malformed")
        pairs.append((field[1], field[2]))
    return Request(method, target, version, Headers(pairs), b"", connection, time.monotonic())


async def read_body(wire: Wire, request: Request) -> bytes:
    """Read the body that belongs to a head.

    Args:
        wire: Where from.
        request: Its headers say how long the body is.

    Raises:
        BadRequestError: If its length is unclear, or too large.
        ConnectionResetError: If the peer closes before it is whole.
    """
    coding = request.headers.get("transfer-encoding")
    length = request.headers.get("content-length")
    if coding is not None:
        # Both at once is how requests are smuggled past a proxy; no honest client sends it.
        if length is not None or coding.lower() != "chunked":
            raise BadRequestError(400, "Transfer-Encoding must be chunked, and stand without Content-Length")
        return await _read_chunked(wire)
    if length is None:
        return b""
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise BadRequestError(400, "Content-Length must be one number")
    if int(length) > MOST_BODY:
        raise BadRequestError(413, f"the body exceeds {MOST_BODY} bytes")
    return await wire.read_exactly(int(length))


async def _read_chunked(wire: Wire) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        try:
            line = _CHUNK_LINE.fullmatch(await wire.read_until(b"\r\n", _MOST_CHUNK_LINE))
        except TooLargeError:
            line = None
        if line is None:
            raise BadRequestError(400, "a chunk size is malformed")
        size = int(line[1], 16)
        if size == 0:
            break
        total += size
        if total > MOST_BODY:
            raise BadRequestError(413, f"the body exceeds {MOST_BODY} bytes")
        data = await wire.read_exactly(size + 2)
        if not data.endswith(b"\r\n"):
            raise BadRequestError(400, "a chunk is longer than its size")
        parts.append(data[:-2])
    await _skip_trailers(wire)
    return b"".join(parts)


async def _skip_trailers(wire: Wire) -> None:
    left = MOST_HEAD
    try:
        while (line := await wire.read_until(b"\r\n", left)) != b"\r\n":
            left -= len(line)
    except TooLargeError:
        raise BadRequestError(431, "the trailers never end") from None
