"""What a body is, told by its content type and first bytes, and whether a chunk has content."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from ..errors import StreamProtocolError, escape
from ..types import ChatCompletionChunk, TextBatch

__all__ = ["has_content", "is_event_stream", "what_is"]

_BOM = b"\xef\xbb\xbf"
_HEAD = 200  # bytes to show in an error, and to wait for the end of a line
_MOST_BLANK = 64 * 1024  # bytes of nothing to wait for the first line
# Types under which servers send event streams; none at all is one of them.
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
    """Tell what a body of status 200 is.

    Args:
        data: Its first bytes.
        content_type: Its ``Content-Type``, which may be missing or wrong.
        final: Whether these bytes are all there is.

    Returns:
        An event stream; a JSON reply that ignores ``stream=True``; an error that says what came; or None if
        that takes more bytes to tell.
    """
    kind = _kind(content_type)
    head = data.removeprefix(_BOM).lstrip()
    if head[:1] in {b"{", b"["}:
        return "json"
    if not head or _BOM.startswith(head):
        if len(data) > _MOST_BLANK:
            return "json" if kind == "application/json" else "stream"
        return "stream" if final else None
    if kind == "text/event-stream":
        return "stream"
    line = head[: _LINE.match(head).end()]  # type: ignore[union-attr]  # it matches anything
    if b":" not in line and len(line) == len(head) < _HEAD and not final and head[:1] != b"<":
        return None
    # A line of an event stream is a field or a comment, and no markup.
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


def has_content(chunks: Iterable[ChatCompletionChunk]) -> bool:
    """Whether a model has spoken: text, reasoning, refusal, a tool call's piece, a finish_reason, usage."""
    if type(chunks) is TextBatch:
        return chunks.field == "arguments" or any(chunks.texts)
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta
            if (
                delta.content
                or choice.finish_reason is not None
                or delta.reasoning_content
                or delta.tool_calls is not None
                or delta.refusal
            ):
                return True
        if chunk.usage is not None:
            return True
    return False
