"""Requests, and the strict parser of HTTP/1 that makes them. Pure: bytes in, requests out."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

MAX_HEAD = 64 * 1024  # bytes of request line and headers together, and of trailers
MAX_BODY = 64 * 1024 * 1024  # maximum bytes of a body
MAX_CHUNK_LINE = 1024  # bytes of the size of an HTTP chunk, extensions included

_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/(1\.[01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_SECRET = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"})


class BadRequestError(Exception):
    """The bytes received are not a valid request; the server answers with `status` and closes the connection."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class Headers(Mapping[str, str]):
    """Header fields, found by name in any case. Values of a repeated field are joined by commas.

    The repr hides values that carry keys; reading a field gives every byte of its value.

    Args:
        pairs: Names and values in the order received.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = tuple(pairs)
        self._joined: dict[str, str] = {}
        for name, value in self.pairs:
            key = name.lower()
            self._joined[key] = f"{self._joined[key]}, {value}" if key in self._joined else value

    def __getitem__(self, name: str) -> str:
        return self._joined[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)

    def __repr__(self) -> str:
        return repr({name: "(hidden)" if name in _SECRET else value for name, value in self.items()})


@dataclass(eq=False, repr=False)
class Request:
    """One request.

    Attributes:
        method: For example ``POST``.
        target: Path and query as sent.
        version: ``1.1`` or ``1.0``.
        headers: Header fields.
        body: The body, without its transfer encoding; empty for a handler that answers `early`.
        connection: Number of the connection that carried the request, counted from 1.
        received_at: When the request was complete, in seconds of ``time.monotonic()``.
        closed_at: When the client closed the connection before the reply was complete, in the same
            seconds; None if the client stayed.
        replied_at: When the reply ended, in the same seconds; None before that.
        status: Status of the reply; None before the reply, and if it did not begin with a whole status line.
        reply_size: Bytes of the reply that were written, headers and framing included.
        failure: The exception that the handler raised, if the server has an ``on_reply`` to tell it to; else None.
    """

    method: str
    target: str
    version: str
    headers: Headers
    body: bytes
    connection: int
    received_at: float
    closed_at: float | None = None
    replied_at: float | None = None
    status: int | None = None
    reply_size: int = 0
    failure: Exception | None = None

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the query; the last value of a repeated parameter counts."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def json(self) -> Any:
        """The body, decoded from JSON.

        Raises:
            ValueError: If the body is not JSON.
        """
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}, {len(self.body)} bytes, connection {self.connection}>"


def parse_head(head: bytes, connection: int) -> Request:
    """Parse request line and headers, blank line included; the request's body is still empty."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    start = _REQUEST_LINE.fullmatch(first)
    if start is None:
        raise BadRequestError(400, "the request line is not HTTP/1")
    pairs: list[tuple[str, str]] = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadRequestError(400, "a header line is malformed")
        pairs.append((field[1], field[2]))
    return Request(start[1], start[2], start[3], Headers(pairs), b"", connection, time.monotonic())


def body_length(headers: Headers) -> int | None:
    """Return how many bytes of body follow the headers; None means that the body is chunked."""
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        # If a proxy and a server disagree on which of two lengths counts, an attacker can hide a second request in
        # the body of the first. No honest client sends both.
        if length is not None or coding.lower() != "chunked":
            raise BadRequestError(400, "Transfer-Encoding must be chunked, and stand without Content-Length")
        return None
    if length is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise BadRequestError(400, "Content-Length must be one number")
    return within_limit(int(length))


def chunk_size(line: bytes | None) -> int:
    """Return the size in the first line of an HTTP chunk; the line is None if its end was not found."""
    match = line and _CHUNK_LINE.fullmatch(line)
    if not match:
        raise BadRequestError(400, "a chunk size is malformed")
    return int(match[1], 16)


def within_limit(length: int) -> int:
    """Return the length of a body, or raise if the server does not take bodies of that length."""
    if length > MAX_BODY:
        raise BadRequestError(413, f"the body exceeds {MAX_BODY} bytes")
    return length
