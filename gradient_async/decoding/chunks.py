"""Bytes to chunks: the hot path."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from ..config import Limits
from ..errors import StreamError, StreamLimitError
from ..sse import EventDecoder, end_of_lines, plain_objects
from ..types import ChatCompletionChunk, ChunkChoice, TextBatch
from .batches import Pattern, learn
from .bounds import refusal
from .careful import CarefulDecoder, fit_choice, is_whole
from .normalize import REFUSED

__all__ = ["ChunkDecoder"]

_decoder = msgspec.json.Decoder(ChatCompletionChunk)
_decode, _decode_all = _decoder.decode, _decoder.decode_lines

# What the decoder refuses, and another number of choices than one.
_UNUSUAL = (*REFUSED, ValueError)
_CR = 0x0D
_DONE_EVENT = b"data: [DONE]\n\n"

# Chunks are decoded just ahead of their consumer: a thousand objects made at once lie in cold memory.
_SLICE = 16 * 1024
# A cut event up to this size waits as bytes and is joined with what follows; a longer one goes into the
# event decoder, which never looks at a byte twice.
_LONGEST_TAIL = 8 * 1024
# Events of this size are decoded one by one, even where they are alike.
_LONG = 2 * 1024
# An event up to this size that comes alone is looked at less closely before it is decoded.
_LONGEST_SINGLE = 4 * 1024

# Bytes at the end of two events that tell whether there is anything to be learned from them.
_TAIL = 8
# Blocks that need not be learned from, at most.
_LONGEST_PAUSE = 63
_DEFAULT_LIMITS = Limits()


class ChunkDecoder(CarefulDecoder):
    """Incremental decoder of one stream of chat completion chunks.

    Use `feed` and `close`. Errors never overtake chunks: what was received before an error is returned
    first, and the next call raises. Errors have ``partial=None``; who assembles fills it.

    Args:
        limits: Sizes a server may send.
        strict: Refuse bad UTF-8 instead of replacing it.
        on_bad_event: ``"raise"``, or ``"skip"`` for gateways that mix other text into the stream.
        n: How many choices were asked for: a chunk of more choices or tool calls than ``limits`` allow is then
            refused here, before anybody sees it. None leaves that to who assembles.

    Attributes:
        done: Whether ``[DONE]`` came. What follows it is ignored.
        events: How many events with data were received, ``[DONE]`` not counted.
        anomalies: How many of them only the tolerant path understood, or were skipped.
        error: What the next call raises, if something is wrong.
        pending: Bytes pushed and not yet looked at by `pull`.
        block: The bytes that the last `pull` decoded.
        torn: Whether they begin inside an event.
        settled: Whether the next byte begins an event, the last block began one, and nothing is held or over.
    """

    __slots__ = ("_buffer", "_events", "_idle", "_lesson", "_longest_single", "_longest_tail", "_pattern", "_pause",
                 "_plain_limit", "_pos", "_tail", "block", "pending", "settled", "torn")  # fmt: skip

    def __init__(
        self,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        strict: bool = False,
        on_bad_event: Literal["raise", "skip"] = "raise",
        n: int | None = None,
    ) -> None:
        super().__init__(limits, strict=strict, on_bad_event=on_bad_event, n=n)
        self._events = EventDecoder(max_event_bytes=limits.event_bytes, max_line_bytes=limits.line_bytes)
        self._plain_limit = min(limits.event_bytes or sys.maxsize, limits.line_bytes or sys.maxsize)
        self._longest_tail = min(_LONGEST_TAIL, self._plain_limit)
        self._longest_single = min(_LONGEST_SINGLE, self._plain_limit)
        self._buffer = b""
        self._pos = 0
        self.pending: int = 0
        self._tail = b""
        self.block = b""
        self.torn = False
        self._idle = False  # whether the next byte begins an event
        self.settled = False
        self._pattern: Pattern | None = None
        # Blocks that need not be learned from: where no event is like the one before, few are looked at.
        self._pause = self._lesson = 0

    def feed(self, data: bytes) -> list[ChatCompletionChunk]:
        """Take bytes off the wire; return the chunks they complete.

        Args:
            data: Any number of bytes, cut anywhere.

        Raises:
            StreamServerError: If the server sent an error inside the stream.
            StreamProtocolError: If an event is no chunk.
            StreamLimitError: If a limit is exceeded.
        """
        if self.settled and len(data) <= self._longest_single:
            # The usual event, by itself: nothing to cut, nothing to hold.
            line, _, rest = data.partition(b"\n")
            start, _, payload = line.partition(b"data: ")
            if rest == b"\n" and not start and _CR not in payload:
                try:
                    chunk = _decode(payload)
                    [choice] = chunk.choices
                except _UNUSUAL:
                    pass
                else:
                    if (
                        chunk._error is None  # noqa: SLF001  # private to the package
                        and (delta := choice.delta)._reasoning is None  # noqa: SLF001  # likewise
                        and choice.finish_reason is None
                        and (not choice.index or self._indices is None)
                        and (
                            (calls := delta.tool_calls) is None
                            or (len(calls) == 1 and (self._indices is None or calls[0].index in self._calls))
                        )
                    ) or self._fit((chunk,)):
                        self.block = data
                        self.events += 1
                        return [chunk]
        self.push(data)
        chunks = list(self.pull())
        while self._buffer:
            try:
                chunks += self.pull()
            except StreamError:
                if not chunks:
                    raise
        return chunks

    def close(self) -> list[ChatCompletionChunk]:
        """End the stream; return the chunk of a last event that lacks only its blank line.

        What is left is dropped if its JSON is torn. Whether the completion is whole is not judged here:
        `CompletionAssembler.complete` tells.

        Raises:
            StreamError: What `feed` could not raise yet.
        """
        chunks = self.feed(b"")
        if self.error is not None:
            return chunks
        try:
            if not self.done:
                self.block, self.torn = self.unread(), False
                last = self._events.feed(self._tail) + self._events.close()
                self._tail = b""
                chunks += self._each([event for event in last if is_whole(event)])
        except StreamError as error:
            self._fail(error)
            if not chunks:
                raise
        return chunks + self._release()

    def push(self, data: bytes) -> None:
        """Take bytes off the wire, to be decoded by `pull` in slices.

        Args:
            data: Any number of bytes, cut anywhere.
        """
        if self.done or self.error is not None:
            return
        if self.events == 0:
            self._events.expect(data)
            self._idle = self._events.idle
        if self._pos < len(self._buffer):
            data = self._buffer[self._pos :] + data
        self._buffer = data
        self._pos = 0
        self.pending = len(data)
        self.settled = False

    def unread(self, *, held: bool = True) -> bytes:
        """Return the bytes pushed whose chunks no `pull` has returned.

        Exact where events arrive whole; an event that was cut, and was too long to wait, as an equal one.

        Args:
            held: Whether to begin with what `pull` has looked at of an unfinished event.
        """
        return (self._events.held() if held else b"") + self._tail + self._buffer[self._pos :]

    def pull(self) -> Sequence[ChatCompletionChunk]:
        """Decode the next slice of what was pushed; return its chunks, which may be none.

        Raises:
            StreamError: As `feed`.
        """
        if self.error is not None:
            raise self.error
        block = self.block = self._next_slice()
        chunks: Sequence[ChatCompletionChunk] = self._block(block) if block else []
        self.settled = self._idle and not (
            self.torn or self._buffer or self._tail or self._held or self.done or self.error is not None
        )
        return chunks

    def _block(self, block: bytes) -> Sequence[ChatCompletionChunk]:
        self.torn = not self._idle
        if self._idle and not self._held and len(block) <= self._plain_limit:
            chunks = self._plain(block)
            if chunks is not None:
                return chunks
        try:
            events = self._events.feed(block)
        except StreamLimitError as error:
            self._fail(error)
            raise
        chunks = self._each(events)
        self._idle = self._events.idle
        if self._events.error is not None and not self.done:
            self._fail(self._events.error)
        return chunks

    def _next_slice(self) -> bytes:
        """Cut the next slice off the buffer, if possible at the end of an event."""
        data = self._buffer
        pos = self._pos
        size = len(data)
        if size - pos > _SLICE:
            end = data.rfind(b"\n\n", pos, pos + _SLICE) + 2
            if end == 1:
                end = end_of_lines(data, pos, pos + _SLICE) or data.find(b"\n\n", pos + _SLICE - 1) + 2
            if end != 1 and end < size:
                self._pos = end
                self.pending = size - end
                return self._after_tail(data[pos:end])
        self._buffer = b""
        self._pos = self.pending = 0
        block = self._after_tail(data[pos:] if pos else data)
        if self._idle and not block.endswith(b"\n\n"):
            end = block.rfind(b"\n\n") + 2
            cut = end if end != 1 else 0
            if len(block) - cut <= self._longest_tail and _CR not in block:
                self._tail = block[cut:]
                return block[:cut]
        return block

    def _after_tail(self, block: bytes) -> bytes:
        """Put before a block what was held of its first event: a slice is copied for that, not a whole read."""
        if self._tail:
            block = self._tail + block
            self._tail = b""
        return block

    def _plain(self, block: bytes) -> Sequence[ChatCompletionChunk] | None:
        """Decode a block of nothing but usual chunks; None if it is anything else."""
        done = block.endswith(_DONE_EVENT)
        if done:
            block = block[: -len(_DONE_EVENT)]
            if not block:
                return self._finish()
        chunks = self._run(block) or self._usual(block)
        if chunks is not None:
            self.events += len(chunks)
            if done:
                self._finish()
        return chunks

    def _run(self, block: bytes) -> TextBatch | None:
        """Take a block of chunks that differ from those before in their text alone."""
        pattern = self._pattern
        # Of long texts there are too few to gain by it.
        run = None if pattern is None or block.find(b"\n") > _LONG else pattern.run(block)
        if run is not None and run.choices is not None and self._indices is not None:
            run = run if max(run.choices) in self._indices else None
        if run is not None:
            self._pause = self._lesson = 0
        return run

    def _usual(self, block: bytes) -> list[ChatCompletionChunk] | None:
        """Decode a block of one-line events; None if one needs a closer look."""
        plain = plain_objects(block)
        if plain is None:
            return None
        payloads, count = plain
        try:
            chunks = _decode_all(payloads)
        except REFUSED:
            return None
        if len(chunks) != count or not self._fit(chunks):
            return None
        if self._pause:
            self._pause -= 1
            return chunks
        last = block.rfind(b"\n", 0, -2) + 7  # behind its "data: "
        if last > _TAIL + 8 and block[last - 8 - _TAIL : last - 8] != block[-2 - _TAIL : -2]:
            return chunks  # the two last events end in different ways: nothing to learn
        self._pause = self._lesson = min(2 * self._lesson + 1, _LONGEST_PAUSE)
        self._pattern = learn(block[last:-2], chunks) if len(block) - last <= _LONG else None
        return chunks

    def _fit(self, chunks: Iterable[ChatCompletionChunk]) -> bool:
        """Bring chunks to their documented shape; False if one has to be looked at closely, for an error most likely."""
        indices = self._indices
        for chunk in chunks:
            try:
                [choice] = chunk.choices
            except ValueError:
                if not (chunk.choices and all(map(self._fit_choice, chunk.choices))):
                    return False
            else:
                delta = choice.delta
                if (
                    delta._reasoning is not None  # noqa: SLF001  # private to the package
                    or choice.finish_reason is not None
                    or (
                        (calls := delta.tool_calls) is not None
                        and not (len(calls) == 1 and (indices is None or calls[0].index in self._calls))
                    )
                    or (choice.index and indices is not None and choice.index not in indices)
                ) and not self._fit_choice(choice):
                    return False
            if chunk._error is not None:  # noqa: SLF001  # likewise
                return False
        return True

    def _fit_choice(self, choice: ChunkChoice) -> bool:
        fit_choice(choice)
        return refusal(choice, self._indices, self._calls) is None

    def _finish(self) -> list[ChatCompletionChunk]:
        self._drop()
        return super()._finish()

    def _fail(self, error: StreamError) -> None:
        self._drop()
        super()._fail(error)

    def _drop(self) -> None:
        """Forget what was pushed: nothing behind the end or an error counts."""
        self._buffer = self._tail = b""
        self._pos = self.pending = 0
