"""The bytes behind chunks that were decoded ahead of their reader."""

from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint

from ..decoding import ChunkDecoder
from ..types import ChatCompletionChunk

__all__ = ["undelivered"]


def undelivered(
    decoder: ChunkDecoder, batch: list[ChatCompletionChunk], ready: Iterator[ChatCompletionChunk]
) -> bytes:
    """Return the bytes received whose chunks the reader has not seen.

    Exact where events arrive whole; an event that the network cut comes as an equal one.

    Args:
        decoder: What decoded them.
        batch: The chunks of the last slice.
        ready: Iterator over it; what it has yielded has been seen.
    """
    left = length_hint(ready)
    rest = decoder.unread()
    if not left:
        return rest
    seen = len(batch) - left
    return _after(decoder.block, seen) + rest


def _after(block: bytes, count: int) -> bytes:
    """Return what is left of a block of events after so many chunks."""
    decoder = ChunkDecoder()
    start = 0
    while count > 0:
        end = block.find(b"\n", start) + 1 or len(block)
        count -= len(decoder.feed(block[start:end]))
        start = end
        if end == len(block):
            break
    return block[start:]
