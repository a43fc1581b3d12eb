"""What a server sent in place of a stream, if it did: told by the content type and the first bytes."""

from __future__ import annotations

from typing import Literal

from ..errors import StreamProtocolError, escape

__all__ = ["what_is"]

_BOM = b"\xef\xbb\xbf"
_HEAD = 200  # bytes to show in an error
# Types under which servers send event streams; none at all is one of them.
_STREAM_TYPES = frozenset(
    {"", "text/event-stream", "application/octet-stream", "text/plain", "application/json"}
)


def what_is(data: bytes, content_type: str) -> Literal["stream", "json"] | StreamProtocolError:
    """Tell what a body of status 200 is.

    Args:
        data: Its first bytes.
        content_type: Its ``Content-Type``, which may be missing or wrong.

    Returns:
        An event stream; a JSON reply that ignores ``stream=True``; or an error that says what came.
    """
    kind = content_type.partition(";")[0].strip().lower()
    head = data.removeprefix(_BOM).lstrip()
    if head[:1] in {b"{", b"["}:
        return "json"
    if kind == "text/event-stream" or not head:
        return "stream"
    # A line of an event stream is a field or a comment: it has a colon, and is no markup.
    is_stream = b":" in head.partition(b"\n")[0] and head[:1] != b"<"
    if is_stream and kind in _STREAM_TYPES:
        return "stream"
    if kind == "application/json":
        return "json"
    shown = escape(data[:_HEAD].decode("utf-8", "replace"), _HEAD)
    return StreamProtocolError(
        f"the reply is {escape(kind, 80) or 'of no type'}, not an event stream; it begins with {shown!r}"
    )
