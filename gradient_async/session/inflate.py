"""Bounded decompression of bodies that a server compressed although it was asked not to.

Pure: no clock, no I/O. Each call returns at most `PIECE` bytes, so that a megabyte that decompresses to a gigabyte takes
neither the memory nor the time of a gigabyte.
"""

from __future__ import annotations

import zlib

from ..config import Limits
from ..errors import StreamLimitError, StreamProtocolError

PIECE = 64 * 1024  # maximum number of bytes that one `read` returns
_FREE = 1024 * 1024  # decompressed bytes before the ratio is checked
_GZIP = 16 + zlib.MAX_WBITS
# Names that servers put into the header of a body that is not coded; the last are those of a character set.
_NOT_CODED = frozenset({"", "identity", "none", "utf-8", "utf8"})


def content_coding(header: str) -> str | None:
    """Return the encoding of a body, from its ``Content-Encoding``.

    Args:
        header: The header's value; "" if there is none.

    Returns:
        None for a body that is not encoded, "gzip", or the name of an encoding that is not supported.
    """
    if not header:
        return None
    names = [name for part in header.split(",") if (name := part.strip().lower()) not in _NOT_CODED]
    if not names:
        return None
    return "gzip" if names in (["gzip"], ["x-gzip"]) else ", ".join(names)


def decoded_error(content: bytes, coding: str, limits: Limits) -> bytes:
    """Return the body of an error as it can be read: decompressed, or as it is.

    A gateway that answers in place of the server may keep the headers of the server's reply, and send a page of its own
    that is not encoded.

    Args:
        content: The body, as far as it was read.
        coding: The encoding that its headers name.
        limits: Limits, of which ``error_body_bytes`` applies as well.
    """
    if coding == "gzip":
        gunzip = Gunzip(limits)
        gunzip.push(content)
        plain = b""
        try:
            while gunzip.pending and len(plain) < limits.error_body_bytes:
                plain += gunzip.read()
        except (StreamLimitError, StreamProtocolError):
            pass
        if plain:
            return plain[: limits.error_body_bytes]
    try:
        content.decode()
    except UnicodeDecodeError:
        return b""
    return content


class Gunzip:
    """Incremental decoder of a gzip body.

    Args:
        limits: Limits, of which ``decompression_ratio`` and ``gzip_members`` apply.

    Attributes:
        pending: Whether `read` may return more bytes without another `push`.
    """

    __slots__ = ("_decoder", "_limits", "_members", "_produced", "_rest", "_started", "_used", "pending")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = zlib.decompressobj(_GZIP)
        self._rest = b""
        self._started = False  # whether any byte of a member has been decompressed
        self._members = 1
        self._used = 0
        self._produced = 0
        self.pending = False

    def push(self, data: bytes) -> None:
        """Take bytes off the wire; call `read` until nothing is pending before the next `push`."""
        self._rest += data
        self.pending = bool(self._rest)

    def read(self) -> bytes:
        """Return the next decompressed bytes: at most `PIECE`, and perhaps none.

        Raises:
            StreamProtocolError: If the body is not gzip.
            StreamLimitError: If a limit is exceeded.
        """
        if self._decoder.eof:
            # Zeros after a member are padding.
            self._rest = self._rest.lstrip(b"\0")
            if not self._rest:
                self.pending = False
                return b""
            self._next_member()
        given = self._rest
        problem: str
        try:
            data = self._decoder.decompress(given, PIECE)
        except zlib.error as error:
            problem = str(error)
        else:
            decoder = self._decoder
            self._rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            self._started = True
            self._used += len(given) - len(self._rest)
            self._produced += len(data)
            # If the output is full, the decoder may hold more output, although it has taken all input.
            self.pending = bool(self._rest) or (len(data) == PIECE and not decoder.eof)
            self._check_ratio()
            return data
        self.pending = False
        raise StreamProtocolError(f"the body is not gzip, though its Content-Encoding says so: {problem}")

    @property
    def whole(self) -> bool:
        """Whether the body may end here: after a whole member, or before the first byte."""
        return self._decoder.eof or not self._started

    def _next_member(self) -> None:
        self._members += 1
        if self._members > self._limits.gzip_members:
            self.pending = False
            raise StreamLimitError(
                f"the body has more than gzip_members={self._limits.gzip_members} gzip members; "
                "raise Limits(gzip_members=...) if that is intended"
            )
        self._decoder = zlib.decompressobj(_GZIP)

    def _check_ratio(self) -> None:
        ratio = self._limits.decompression_ratio
        if self._produced > _FREE and self._produced > ratio * self._used:
            self.pending = False
            raise StreamLimitError(
                f"{self._used} bytes of gzip became {self._produced}, more than decompression_ratio={ratio} "
                "times as many; raise Limits(decompression_ratio=...) if that is intended"
            )
