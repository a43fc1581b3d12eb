"""Finds out from its content type and first bytes whether a body is an event stream, JSON or something else."""

from __future__ import annotations

import re
from typing import Literal

from ..errors import StreamProtocolError, escape

_BOM = b"\xef\xbb\xbf"
_HEAD = 200  # bytes to show in an error; also the longest first line whose end is waited for
_MAX_BLANK = 64 * 1024  # maximum number of blank bytes before the first line
# Content types under which servers send event streams; "" is a missing content type.
_STREAM_TYPES = frozenset(
    {"", "text/event-stream", "application/octet-stream", "text/plain", "application/json"}
)
_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_LINE = re.compile(rb"[^\r\n]*")


def is_event_stream(content_type: str) -> bool:
    """Whether a ``Content-Type`` says that the body is an event stream."""
    return _kind(content_type) == "text/event-stream"


def what_is(
    data: bytes, content_type: str, *, final: bool
) -> Literal["stream", "json"] | StreamProtocolError | None:
    """Find out what a body of status 200 is.

    Args:
        data: The first bytes of the body.
        content_type: The ``Content-Type`` of the reply, which may be missing or wrong.
        final: Whether ``data`` is the whole body.

    Returns:
        "stream" for an event stream; "json" for a JSON reply that ignores ``stream=True``; an error for any other body;
        or None if more bytes are needed.
    """
    kind = _kind(content_type)
    head = data.removeprefix(_BOM).lstrip()
    if head[:1] in {b"{", b"["}:
        return "json"
    if not head or _BOM.startswith(head):
        if len(data) > _MAX_BLANK:
            return "json" if kind == "application/json" else "stream"
        return "stream" if final else None
    if kind == "text/event-stream":
        return "stream"
    line = head[: _LINE.match(head).end()]  # type: ignore[union-attr]  # it matches anything
    if b":" not in line and len(line) == len(head) < _HEAD and not final and head[:1] != b"<":
        return None
    # A line of an event stream is a field or a comment, and does not begin with markup.
    if (b":" in line or line in _FIELDS) and head[:1] != b"<" and kind in _STREAM_TYPES:
        return "stream"
    if kind == "application/json":
        return "json"
    shown = escape(data[:_HEAD].decode("utf-8", "replace"), _HEAD)
    return StreamProtocolError(
        f"the reply is {escape(kind, 80) or 'of no type'}, not an event stream; it begins with {shown!r}"
    )


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
