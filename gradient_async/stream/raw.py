"""The bytes behind chunks that were decoded ahead of their reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import length_hint

from ..decoding import ChunkDecoder

__all__ = ["undelivered"]

_NEWLINE = re.compile(rb"\r\n|\r|\n")
_BLANK = re.compile(rb"\A(?>\r\n|\r|\n)|(?>\r\n|\r|\n)(?>\r\n|\r|\n)")


def undelivered(decoder: ChunkDecoder, count: int, cursor: Iterator[object]) -> bytes:
    """Return the bytes received whose chunks the reader has not seen.

    Exact where events arrive whole; an event that the network cut comes as an equal one.

    Args:
        decoder: What decoded them.
        count: How many chunks were in the last slice.
        cursor: Iterator over them; what it has yielded has been seen.
    """
    left = length_hint(cursor)
    if not left:
        return decoder.unread()
    # What the decoder holds of an unfinished event stands at the end of the block as well.
    return _after(decoder.block, count - left, torn=decoder.torn) + decoder.unread(held=False)


def _after(block: bytes, count: int, *, torn: bool) -> bytes:
    """Return what is left of a block of events after so many chunks."""
    decoder = ChunkDecoder()
    start = 0
    if torn:
        # The event that begins before the block is the first of them; its blank line ends it.
        blank = _BLANK.search(block)
        start = len(block) if blank is None else blank.end()
        count -= 1
    while count > 0 and start < len(block):
        line = _NEWLINE.search(block, start)
        end = len(block) if line is None else line.end()
        count -= len(decoder.feed(block[start:end]))
        start = end
    return block[start:]
