"""Decodes bytes to chunks: a fast path for usual events, and a tolerant path for all others.

Theory of operation
===================

    push ──> _buffer ──> _next_block ──┬──> _decode_block   fast: a whole block with a few C calls
                             │         │         │ None: something in the block is unusual
                           _tail       └──> _decode_events  tolerant: `EventDecoder`, then `PayloadDecoder`

Nearly every event is one line, ``data: {...}``, and a blank line. The fast path decodes a block of such events at once.
It decodes all of a block or nothing: if anything is unusual it returns None and has changed no state, and the tolerant
path decodes the same bytes. So the tolerant path alone defines what a stream means, and the fast path only has to agree
with it; the tests decode every stream both ways.

Bytes wait in one of three places:

- `_buffer`, for bytes that `push` received and `decode_slice` has not decoded. A large read is decoded in slices, each
  just before the consumer reads its chunks.
- `_tail`, for the beginning of an event that the network cut, if it is short and has no CR. The next bytes are joined to
  it, so that the event takes the fast path after all.
- `_events`, for the beginning of any other unfinished event. `EventDecoder` never searches a byte twice, so a large event
  that arrives in many small reads costs linear time.

Half a surrogate pair, or the error of a torn event, may wait in `_payloads`. This gives four states:

=========  ==============================================================  ========================================
idle       nothing waits, the next byte begins an event                    `idle`
pending    `decode_slice` has bytes or payloads to decode                  `pending` > 0
cut        part of an event or of a surrogate pair, or an error, waits     `_tail`, or `_aligned` is False
ended      ``[DONE]`` was received, or an error; the rest is ignored       `done`, `error`
=========  ==============================================================  ========================================

Errors never overtake chunks. `_fail` ends the stream and keeps the error; `feed`, `decode_slice` and `close` raise the
error once they have no chunk to return.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal

import msgspec

from ..config import Limits
from ..errors import StreamError, StreamLimitError, StreamProtocolError, StreamServerError, escape
from ..sse import Event, EventDecoder, end_of_slice, plain_objects
from ..types import ChatCompletionChunk
from ..types.nesting import UNLIMITED, TooManyValuesError, has_long_number, max_light, may_be_heavy
from .batches import BatchDecoder
from .error_bodies import visible_words
from .normalize import DECODE_ERRORS, decode_body, has_silent_choice, is_silent, may_hide_text
from .tolerant import Payload, PayloadDecoder, payloads_of_ignored, split_payloads, word_of

_decoder = msgspec.json.Decoder(ChatCompletionChunk)
_decode, _decode_lines = _decoder.decode, _decoder.decode_lines

_CR = 0x0D
_LF = b"\n"
_BLANK = b"\n\n"
# The beginning of a line with an unknown field, which the standard ignores. Any other line without data may be the page
# of a gateway, and is kept for the error message.
_FIELD = re.compile(rb"[\w.-]+:")
_DONE_EVENT = b"data: [DONE]\n\n"

# The size of a slice in bytes. Decoding a read of 256 kB at once would make a thousand chunks before the consumer sees the
# first. By then the chunks have left the CPU's cache, and the whole stream takes 1.5 times as long.
_SLICE = 16 * 1024
# The longest beginning of a cut event, in bytes, that waits in `_tail`. Joining it to the next bytes copies it once more.
_MAX_TAIL = 8 * 1024
# The longest event, in bytes, that takes the shortest path when it arrives alone. That path copies the event twice; for a
# longer event the copies cost more than the view that `plain_objects` makes.
_MAX_SINGLE = 4 * 1024
# The longest block, in bytes, that takes the fast path, which decodes all of a block in one turn of the event loop.
_MAX_BLOCK = 1024 * 1024
# A payload costs the tolerant path about as much as so many bytes more.
_COST = 64

_DEFAULT_LIMITS = Limits()


class ChunkDecoder:
    """Incremental decoder of one stream of chat completion chunks.

    Call `feed` with each read and `close` at the end; or `push` a read, and call `decode_slice` until nothing is `pending`.
    Errors never overtake chunks: all chunks received before an error are returned first, and the next call raises. Errors
    have ``partial=None``, because the decoder does not assemble a completion.

    Args:
        limits: Limits on what a server may send.
        strict: Refuse invalid UTF-8; by default it is replaced by U+FFFD.
        on_bad_event: ``"raise"``, or ``"skip"`` for gateways that mix other text into the stream.
        n: Number of choices that were asked for. A chunk with an index of a choice or tool call beyond ``limits`` is
            then refused before the caller sees it. With None, only the assembler checks indices.
        keep_body: Let each chunk keep its JSON. Every event then takes the tolerant path, which sees each by itself.

    Attributes:
        done: Whether ``[DONE]`` came. Bytes after it are ignored.
        events: Number of events with data, ``[DONE]`` not counted.
        error: The error that the next call raises, or None.
        pending: Number of bytes that were pushed and not yet decoded; at least 1 as long as `decode_slice` has work.
        idle: Whether all bytes are decoded and the next byte begins an event.
        keep_body: Whether each chunk keeps its JSON.
    """

    # Slots save 2 % of the time of a chunk, here and in the assembler together.
    __slots__ = ("_aligned", "_batches", "_buffer", "_call_indices", "_decoded", "_ending", "_events", "_ignored", "_indices",
                 "_left", "_max_block", "_max_light", "_max_single", "_max_tail", "_max_values", "_payloads", "_silent",
                 "_tail", "_tolerant", "_work", "done", "error", "events", "idle", "keep_body", "pending")  # fmt: skip

    def __init__(
        self,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        strict: bool = False,
        on_bad_event: Literal["raise", "skip"] = "raise",
        n: int | None = None,
        keep_body: bool = False,
    ) -> None:
        self._payloads = PayloadDecoder(limits, strict=strict, skip=on_bad_event == "skip", n=n)
        self._indices, self._call_indices = self._payloads.indices, self._payloads.call_indices
        # The fast path does not measure events: in a block smaller than both limits, no event or line exceeds its limit.
        self._max_block = min(limits.event_bytes or sys.maxsize, limits.line_bytes or sys.maxsize, _MAX_BLOCK)
        self._max_tail = min(_MAX_TAIL, self._max_block)
        # Nor does it count values: shorter events cannot have too many.
        self._max_values = limits.values or UNLIMITED
        self._max_light = max_light(self._max_values)
        self._max_single = min(_MAX_SINGLE, self._max_block, self._max_light)
        self.keep_body = keep_body
        if keep_body:
            self._max_block = self._max_single = -1  # no block is small enough for the fast path
        self._events = EventDecoder(
            max_event_bytes=limits.event_bytes, max_line_bytes=limits.line_bytes, keep_ignored=True
        )
        self._batches = BatchDecoder()
        self._buffer = b""
        self._left = 0  # how many of the last bytes of the buffer are not decoded
        self.pending = 0
        self._tail = b""
        # Whether the next block begins at the beginning of an event, as the fast path requires. False at first, because
        # the stream may begin with a byte order mark.
        self._aligned = False
        self.idle = False
        # The number of events that took the tolerant path, and of silent chunks of the fast path. All other events had a part
        # of the answer. So these two counts show whether any delta had one, without work for a usual chunk.
        self._tolerant = 0
        self._silent = 0
        # Decodes the payloads of the tolerant path, some with each step, to `_decoded`.
        self._work: Iterator[None] | None = None
        self._decoded: list[ChatCompletionChunk] = []
        self._ending = False  # whether `decode_slice` has to end the stream when all bytes are decoded
        self._ignored = b""  # the last lines that do not belong to an event stream
        self.error: StreamError | None = None
        self.done = False
        self.events = 0

    def feed(self, data: bytes) -> list[ChatCompletionChunk]:
        """Take bytes off the wire; return the chunks that they complete.

        Args:
            data: Any number of bytes, cut anywhere.

        Raises:
            StreamServerError: If the server sent an error inside the stream.
            StreamProtocolError: If an event is not a chunk.
            StreamLimitError: If a limit is exceeded.
        """
        if self.idle and len(data) <= self._max_single:
            # Most reads bring exactly one whole event. This shortest path cuts nothing and holds nothing back. Two calls of
            # `partition` prove that the read is ``data: ``, one line and a blank line.
            line, _, rest = data.partition(b"\n")
            start, _, payload = line.partition(b"data: ")
            if rest == b"\n" and not start and _CR not in payload:
                try:
                    chunk = _decode(payload)
                    [choice] = chunk.choices  # ValueError if there are several, or none
                except DECODE_ERRORS:
                    pass
                else:
                    # The conditions of `_normalize_all`, repeated here to save a call for each chunk.
                    if (
                        chunk._error is None
                        and (delta := choice.delta)._reasoning is None
                        and choice.finish_reason is None
                        and (not choice.index or self._indices is None or choice.index in self._indices)
                        and (
                            delta.content or delta.reasoning_content
                            if (calls := delta.tool_calls) is None
                            else len(calls) == 1
                            and (self._indices is None or calls[0].index in self._call_indices)
                        )
                    ) or self._normalize_all((chunk,), payload):
                        self.events += 1
                        return [chunk]
        self.push(data)
        chunks = list(self._decode_next())
        while self.pending:
            chunks += self._decode_next()
        if self.error is not None and not chunks:
            raise self.error
        return chunks

    def close(self) -> list[ChatCompletionChunk]:
        """End the stream; return the chunk of a last event that lacks only its blank line.

        A last event whose JSON is cut is dropped. Use `CompletionAssembler.complete` to learn whether the completion is
        whole.

        Raises:
            StreamError: The same errors as in `feed`.
        """
        self.finish()
        return self.feed(b"")

    def finish(self) -> None:
        """Note that no more bytes will come; `decode_slice` returns the chunk of an event that lacks only its blank line."""
        if self.error is None and not self.done:
            self._ending = True
            self.pending = self.pending or 1
            self.idle = False

    def push(self, data: bytes) -> None:
        """Take bytes off the wire; `decode_slice` decodes them.

        Args:
            data: Any number of bytes, cut anywhere.
        """
        if self.done or self.error is not None:
            return
        self._buffer = self._buffer[-self._left :] + data if self._left else data
        self._left = len(self._buffer)
        self.pending = self._left or self.pending
        self.idle = False
        if self.events == 0:
            # Without this check the first block would take the tolerant path, and a short stream has only one block.
            self._events.check_bom(self._buffer)
            self._aligned = self._events.idle

    def decode_slice(self) -> Sequence[ChatCompletionChunk]:
        """Decode the next slice of the bytes that were pushed; return its chunks, if there are any.

        Raises:
            StreamError: The same errors as in `feed`.
        """
        chunks = self._decode_next()
        if self.error is not None and not chunks:
            raise self.error
        return chunks

    def check(self, chunk: ChatCompletionChunk) -> None:
        """Refuse a chunk with an index that is negative or beyond `Limits`; without ``n``, accept any.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If an index of a choice or tool call is beyond its limit.
        """
        for choice in chunk.choices:
            self._payloads.check_indices(choice)

    # Blocks

    def _decode_next(self) -> Sequence[ChatCompletionChunk]:
        chunks: Sequence[ChatCompletionChunk] = ()
        if self._work is None:
            block = self._next_block()
            if block:
                usual = self._decode_block(block) if self._aligned and len(block) <= self._max_block else None
                if usual is None:
                    self._work = self._decode_events(block)
                else:
                    chunks = usual
            elif self._ending:
                self._ending = False
                self._work, self._tail = self._decode_events(self._tail, last=True), b""
        if self._work is not None:
            if next(self._work, self) is self:
                self._work = None
            chunks, self._decoded = self._decoded, []
        self.pending = self._left or int(self._ending or self._work is not None)
        self.idle = self._aligned and not (self.pending or self._tail or self.done or self.error is not None)
        return chunks

    def _next_block(self) -> bytes:
        """Return the tail and the next slice of the buffer as one block, which ends with an event if possible."""
        data = self._buffer
        end = len(data)
        start = end - self._left
        if self._left > _SLICE:
            end = end_of_slice(data, start, start + _SLICE)
        self._left -= end - start
        # Slicing copies the bytes once, or not at all if the slice is the whole buffer. The tail is joined to the slice
        # and not to the buffer, so that joining copies 16 kB at most.
        block = data[start:end]
        if self._tail:
            block = self._tail + block
            self._tail = b""
        if self._left:
            return block
        self._buffer = b""
        if self._aligned and not block.endswith(b"\n\n"):
            cut = block.rfind(b"\n\n")
            cut = cut + 2 if cut >= 0 else 0
            # If lines end with CR, a blank line may be present without LF LF: only `EventDecoder` can dispatch that event.
            if len(block) - cut <= self._max_tail and _CR not in block:
                self._tail = block[cut:]
                block = block[:cut]
        return block

    def _decode_block(self, block: bytes) -> Sequence[ChatCompletionChunk] | None:
        """Decode a block of usual events: the fast path. Return None, and change nothing, if an event is unusual."""
        done = block.endswith(_DONE_EVENT)
        if done:
            block = block[: -len(_DONE_EVENT)]
            if not block:
                return self._finish()
        chunks: Sequence[ChatCompletionChunk] | None
        template = self._batches.template
        batch = None if template is None else self._batches.decode(block, template)
        if batch is None:
            chunks = self._decode_objects(block)
        elif batch.choices is None or self._indices is None or max(batch.choices) in self._indices:
            chunks = batch
        else:
            return None
        if chunks is not None:
            self.events += len(chunks)
            if done:
                self._finish()
        return chunks

    def _decode_objects(self, block: bytes) -> list[ChatCompletionChunk] | None:
        """Decode a block of one-line events; None if one of them is not a usual chunk."""
        if len(block) > self._max_light and (may_be_heavy(block, self._max_values) or has_long_number(block)):
            return None
        objects = plain_objects(block)
        if objects is None:
            return None
        lines, count = objects
        try:
            chunks = _decode_lines(lines)
        except DECODE_ERRORS:
            return None
        if len(chunks) != count or not self._normalize_all(chunks, block):
            return None
        self._batches.learn(block, chunks)
        return chunks

    # Events

    def _decode_events(self, block: bytes, *, last: bool = False) -> Iterator[None]:
        """Decode bytes of any form, cut anywhere: the tolerant path. The chunks go to `_decoded`.

        Some servers forget the blank lines, so that one event has thousands of payloads, or the whole stream.

        Args:
            block: The next bytes.
            last: Whether the stream ends with these bytes. A last event without its blank line is then decoded if its
                data is whole.

        Yields:
            None, when enough for one slice has been decoded.
        """
        finished: list[Event] = []
        unfinished: list[Event] = []
        try:
            finished = self._events.feed(block)
            if last:
                unfinished = self._events.close()
        except StreamLimitError:
            pass
        payloads = self._payloads
        cost = 0
        split = self._split(finished)
        for data, name in chain(split, self._split(unfinished, unfinished=True)) if last else split:
            if name != "error":  # an event with this name is an error, whatever its data are
                word = word_of(data, name)
                if word == "done":
                    self._decoded += self._finish()
                    break
                if word is not None:
                    continue
            # The slice ends before a payload that would make it too long: reading a chunk may take as long as decoding it.
            cost += len(data) + _COST
            if cost > _SLICE:
                yield
                cost = len(data) + _COST
            torn = payloads.torn
            self.events += 1
            self._tolerant += 1
            try:
                spoken = self.events - self._tolerant > self._silent
                chunk = payloads.decode(data, name, number=self.events, spoken=spoken)
            except StreamError as error:
                self._fail(error if torn is None or isinstance(error, StreamServerError) else torn)
                break
            except TooManyValuesError as error:
                what = f"event {self.events} of the stream has {error}"
                self._fail(torn or StreamLimitError(what, events=self.events))
                break
            if torn is not None:
                self._fail(torn)  # the server does not say why
                break
            if chunk is not None:
                if self.keep_body:
                    chunk.receive(data, decode_body)
                self._decoded.append(chunk)
        if last and payloads.torn is not None:
            self._fail(payloads.torn)
        # The events above came before the bytes that exceed a limit. After [DONE] or an error, a limit does not matter.
        if self._events.error is not None and not self.done:
            self._fail(self._events.error)
        if last and self.error is None:
            self._decoded += payloads.surrogates.release()
        self._aligned = self._events.idle and not payloads.surrogates.high and payloads.torn is None

    def _split(self, events: Iterable[Event], *, unfinished: bool = False) -> Iterator[Payload]:
        """Yield the payloads of events, and of lines that do not belong to an event stream."""
        for event in events:
            data = event.data.strip()
            if not event.type:
                found = payloads_of_ignored(data)
                if not found and not _FIELD.match(data):
                    self._ignored = data
                yield from found
            elif event.type.lower() == "error":
                yield data, "error"
            elif unfinished or _LF in data:
                for payload in split_payloads(data, unfinished=unfinished):
                    yield payload, event.type
            else:
                yield data, event.type

    # Chunks

    def _normalize_all(self, chunks: Sequence[ChatCompletionChunk], data: bytes) -> bool:
        """Normalize chunks of the fast path; return False if the tolerant path has to decode them.

        The loop makes no call for a usual chunk.

        Args:
            chunks: The chunks.
            data: The bytes that they were decoded from.
        """
        indices, normalize = self._indices, self._payloads.normalize
        silent: list[int] = []
        try:
            for place, chunk in enumerate(chunks):
                if chunk._error is not None:
                    return False
                try:
                    [choice] = chunk.choices
                except ValueError:
                    if not chunk.choices:
                        return False  # the event is usage, or an error, which `identify` recognizes
                    for choice in chunk.choices:
                        normalize(choice)
                    if has_silent_choice(chunk):
                        silent.append(place)
                else:
                    delta = choice.delta
                    if (
                        delta._reasoning is not None
                        or choice.finish_reason is not None
                        or (choice.index and indices is not None and choice.index not in indices)
                    ):
                        normalize(choice)
                    elif (calls := delta.tool_calls) is None:
                        if delta.content or delta.reasoning_content:
                            continue
                    elif len(calls) == 1 and (indices is None or calls[0].index in self._call_indices):
                        continue
                    else:
                        normalize(choice)
                    if is_silent(delta):
                        silent.append(place)
        except StreamError:
            return False  # the tolerant path decodes the block again, and raises after the chunks before the error
        if silent:
            if {0, len(chunks) - 1}.issuperset(silent):
                # Nearly always only the first and the last chunk of a stream are silent. To search all events for the text
                # of these two would take a fifth of the time of decoding.
                data = data[: data.find(_BLANK)] + data[data.rfind(_BLANK, 0, -len(_BLANK)) :]
            if may_hide_text(data, "delta"):
                return False
            self._silent += len(silent)
        return True

    # The end

    def _finish(self) -> list[ChatCompletionChunk]:
        """End the stream because ``[DONE]`` came."""
        self.done = True
        error = self._payloads.torn or self.unanswered
        if error is not None:
            self._fail(error)
        self._drop()
        return self._payloads.surrogates.release()

    def _fail(self, error: StreamError) -> None:
        """End the stream with an error. The first error counts: the same block may exceed a limit after an error."""
        if self.error is None:
            if error is not self._payloads.torn:
                error.events = self.events
            self.error = error
        self._drop()

    @property
    def anomalies(self) -> int:
        """Number of events that were repaired or skipped."""
        return self._payloads.anomalies

    @property
    def unanswered(self) -> StreamProtocolError | None:
        """The error of a stream without choices; None if there was a choice, or if there were only heartbeats.

        At ``[DONE]`` the decoder raises this error. If the stream ends in another way, the caller may know a better reason.
        """
        return None if self.events > self._tolerant else self._payloads.unanswered(self.events)

    @property
    def last_words(self) -> str:
        """The text of the last lines that do not belong to an event stream, such as the page of a gateway; or ""."""
        return escape(visible_words(self._ignored.decode("utf-8", "replace")))

    def _drop(self) -> None:
        self._buffer = self._tail = b""
        self._left = self.pending = 0
        self._ending = False
