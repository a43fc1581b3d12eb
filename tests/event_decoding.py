"""Helpers for tests of the event decoder, and pieces of streams."""

from __future__ import annotations

from gradient_async.errors import StreamLimitError
from gradient_async.sse import Event, EventDecoder

__all__ = ["FRAGMENTS", "decode_events", "held_bytes"]

FRAGMENTS = [
    b"data", b"data:", b"data: ", b"event", b"event: ", b"id", b"id:", b"retry: 5", b"re", b":", b" ", b"\n", b"\n\n",
    b"\r", b"\r\n", b"\r\r", b"\0", b"x", b"42", b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xbf", b"\xff", "é💡".encode(),
]  # fmt: skip


def decode_events(decoder: EventDecoder, pieces: list[bytes]) -> tuple[list[Event], str | None]:
    """Feed and close a decoder; return the events, and the message of the error or None."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except StreamLimitError as error:
        return events, error.message
    return events, None


def held_bytes(decoder: EventDecoder) -> int:
    """Count the bytes that a decoder keeps of an unfinished event."""
    return sum(map(len, (*decoder._blocks, *decoder._data, *decoder._line)))
