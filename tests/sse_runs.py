"""How the tests of the event decoder feed it, and the pieces they make streams of."""

from __future__ import annotations

from gradient_async.errors import StreamLimitError
from gradient_async.sse import Event, EventDecoder

__all__ = ["FRAGMENTS", "held_bytes", "run"]

FRAGMENTS = [
    b"data", b"data:", b"data: ", b"event", b"event: ", b"id", b"id:", b"retry: 5", b"re", b":", b" ", b"\n", b"\n\n",
    b"\r", b"\r\n", b"\r\r", b"\0", b"x", b"42", b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xbf", b"\xff", "é💡".encode(),
]  # fmt: skip


def run(decoder: EventDecoder, pieces: list[bytes]) -> tuple[list[Event], str | None]:
    """Feed and close; return the events, and the words of the error if one ended them."""
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
