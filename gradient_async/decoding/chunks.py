"""Bytes to chunks: the hot path."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn

import msgspec

from ..config import Limits
from ..errors import StreamError, StreamLimitError, StreamProtocolError, escape
from ..sse import Event, EventDecoder, end_of_lines, plain_payloads
from ..types import ChatCompletionChunk, ChoiceDelta, ChunkChoice, Run
from .bounds import refusal
from .faults import ErrorBody, find_error, server_error
from .lenient import is_object, loads, well_formed
from .repairs import REFUSED, settle, to_chunk
from .runs import Pattern, learn

__all__ = ["ChunkDecoder"]

_decode = msgspec.json.Decoder(ChatCompletionChunk).decode

_CR = 0x0D
_DONE = b"[DONE]"
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

_LONGEST_PAUSE = 63
_PIECES = ("content", "reasoning_content", "refusal")
_DEFAULT_LIMITS = Limits()


class ChunkDecoder:
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
    """

    __slots__ = ("_buffer", "_calls", "_events", "_held", "_idle", "_indices", "_lesson", "_longest_single",
                 "_longest_tail", "_pattern", "_pause", "_plain_limit", "_pos", "_settled", "_skip", "_strict", "_tail",
                 "anomalies", "block", "done", "error", "events", "pending", "torn")  # fmt: skip

    def __init__(
        self,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        strict: bool = False,
        on_bad_event: Literal["raise", "skip"] = "raise",
        n: int | None = None,
    ) -> None:
        self._events = EventDecoder(max_event_bytes=limits.event_bytes, max_line_bytes=limits.line_bytes)
        self._plain_limit = min(limits.event_bytes or sys.maxsize, limits.line_bytes or sys.maxsize)
        self._longest_tail = min(_LONGEST_TAIL, self._plain_limit)
        self._longest_single = min(_LONGEST_SINGLE, self._plain_limit)
        self._indices = None if n is None else range(max(n, limits.choices))
        self._calls = range(limits.tool_calls)
        self._strict = strict
        self._skip = on_bad_event == "skip"
        self._buffer = b""
        self._pos = 0
        self.pending: int = 0
        self._tail = b""
        self.block = b""
        self.torn = False
        self._idle = False  # whether the next byte begins an event
        self._settled = False  # whether, besides, the last block began an event, and nothing is held or over
        self._pattern: Pattern | None = None
        # Blocks that need not be learned from: where no event is like the one before, few are looked at.
        self._pause = self._lesson = 0
        # High surrogates that ended a delta, by choice and field: their other half may be in the next.
        self._held: dict[tuple[int, str], str] = {}
        self.error: StreamError | None = None
        self.done = False
        self.events = 0
        self.anomalies = 0

    def feed(self, data: bytes) -> list[ChatCompletionChunk]:
        """Take bytes off the wire; return the chunks they complete.

        Args:
            data: Any number of bytes, cut anywhere.

        Raises:
            StreamServerError: If the server sent an error inside the stream.
            StreamProtocolError: If an event is no chunk.
            StreamLimitError: If a limit is exceeded.
        """
        if self._settled and len(data) <= self._longest_single:
            # The usual event, by itself: nothing to cut, nothing to hold.
            line, _, rest = data.partition(b"\n")
            if rest == b"\n" and line.startswith(b"data: ") and _CR not in line:
                try:
                    chunk = _decode(line[6:])
                except REFUSED:
                    pass
                else:
                    choices = chunk.choices
                    if (
                        chunk._error is None  # noqa: SLF001  # private to the package
                        and len(choices) == 1
                        and (delta := (choice := choices[0]).delta).tool_calls is None
                        and delta._reasoning is None  # noqa: SLF001
                        and choice.finish_reason != ""
                        and (not choice.index or self._indices is None)
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
                chunks += self._each([event for event in last if _is_whole(event)])
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
        self._settled = False

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
        self._settled = self._idle and not (
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

    def _run(self, block: bytes) -> Run | None:
        """Take a block of chunks that differ from those before in their text alone."""
        pattern = self._pattern
        # Of long texts there are too few to gain by it.
        run = None if pattern is None or block.find(b"\n") > _LONG else pattern.run(block)
        if run is not None:
            self._pause = self._lesson = 0
        return run

    def _usual(self, block: bytes) -> list[ChatCompletionChunk] | None:
        """Decode a block of one-line events; None if one needs a closer look."""
        payloads = plain_payloads(block)
        if payloads is None:
            return None
        try:
            chunks = [_decode(payload) for payload in payloads]
        except REFUSED:
            return None
        if not self._fit(chunks):
            return None
        if self._pause:
            self._pause -= 1
        else:
            self._pause = self._lesson = min(2 * self._lesson + 1, _LONGEST_PAUSE)
            last = payloads[-1]
            self._pattern = learn(bytes(last), chunks[-1]) if len(last) <= _LONG else None
        return chunks

    def _fit(self, chunks: Iterable[ChatCompletionChunk]) -> bool:
        """Bring chunks to their documented shape; False if one has to be looked at closely, for an error most likely."""
        indices = self._indices
        for chunk in chunks:
            choices = chunk.choices
            if chunk._error is not None or not choices:  # noqa: SLF001  # private to the package
                return False
            for choice in choices:
                delta = choice.delta
                if delta.tool_calls is not None:
                    if not delta.tool_calls:
                        delta.tool_calls = None
                    elif indices is not None and refusal(choice, indices, self._calls) is not None:
                        return False
                if delta._reasoning is not None or choice.finish_reason == "":  # noqa: SLF001
                    _fit_choice(choice)
                if choice.index and indices is not None and choice.index not in indices:
                    return False
        return True

    def _finish(self) -> list[ChatCompletionChunk]:
        self.done = True
        self._buffer = self._tail = b""
        self._pos = self.pending = 0
        return self._release()

    def _each(self, events: list[Event]) -> list[ChatCompletionChunk]:
        chunks: list[ChatCompletionChunk] = []
        for event in events:
            data = event.data.strip()
            if event.type != "error":  # which is one whatever it holds
                if not data:
                    continue  # a keep-alive
                if data == _DONE:
                    return chunks + self._finish()
            self.events += 1
            try:
                chunk = self._one(data, event.type)
            except StreamError as error:
                self._fail(error)
                if not chunks:
                    raise
                break
            if chunk is not None:
                chunks.append(chunk)
        return chunks

    def _one(self, data: bytes, name: str) -> ChatCompletionChunk | None:
        if name == "error":
            self._raise_error(data)
        try:
            chunk = _decode(data)
        except REFUSED:
            return self._tolerant(data)
        if chunk._error is not None or not chunk.choices:  # noqa: SLF001
            error = find_error(_peek(data))
            if error is not None:
                raise server_error(error)
        for choice in chunk.choices:
            _fit_choice(choice)
        self.check(chunk)
        if self._held:
            self._hold(chunk)
        return chunk

    def _tolerant(self, data: bytes) -> ChatCompletionChunk | None:
        if data == b"null":
            return None  # a keep-alive
        problem: str
        try:
            if self._strict:
                data.decode()
            body = loads(data)
            error = find_error(body)
            if error is not None:
                raise server_error(error)
            chunk = to_chunk(body)
        except RecursionError:
            problem = "nested too deep"
        except ValueError as refused:  # bad UTF-8, JSON and shapes alike
            problem = str(refused)
        else:
            self.check(chunk)
            self.anomalies += 1
            self._hold(chunk)
            return chunk
        if self._skip:
            self.anomalies += 1
            return None
        head = escape(data[:200].decode("utf-8", "replace"))
        raise StreamProtocolError(
            f"event {self.events} of the stream is not a chat completion chunk: {escape(problem)}; "
            f"it begins with {head!r}",
            body=data[:200].decode("utf-8", "replace"),
        )

    def check(self, chunk: ChatCompletionChunk) -> None:
        """Refuse a chunk before anybody sees it, if an index of it is none, or that of too many.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If it is that of more choices or tool calls than `Limits` allow.
        """
        for choice in chunk.choices:
            error = refusal(choice, self._indices, self._calls)
            if error is not None:
                raise error

    def _hold(self, chunk: ChatCompletionChunk) -> None:
        """Join surrogate pairs that two deltas share; keep back a high one at a delta's end."""
        for choice in chunk.choices:
            delta = choice.delta
            last = choice.finish_reason is not None
            for name in _PIECES:
                key = (choice.index, name)
                text = getattr(delta, name)
                if not text and not last:
                    continue
                text = self._held.pop(key, "") + (text or "")
                if not text:
                    continue
                if "\ud800" <= text[-1] <= "\udbff" and not last:
                    self._held[key] = text[-1]
                    text = text[:-1]
                setattr(delta, name, well_formed(text))

    def _release(self) -> list[ChatCompletionChunk]:
        """At the end, a high surrogate whose other half never came becomes U+FFFD."""
        chunks: list[ChatCompletionChunk] = []
        for index, name in self._held:
            delta = ChoiceDelta()
            setattr(delta, name, "\ufffd")
            chunks.append(ChatCompletionChunk(choices=[ChunkChoice(index=index, delta=delta)]))
        self._held.clear()
        return chunks

    def _raise_error(self, data: bytes) -> NoReturn:
        body = _peek(data)
        error = find_error(data.decode("utf-8", "replace") if body is None else body, named=True)
        raise server_error(error or ErrorBody(message="", body=body))

    def _fail(self, error: StreamError) -> None:
        # The first is the one told: a limit may be exceeded behind an error in the same bytes.
        if self.error is None:
            error.events = self.events
            self.error = error
        self._buffer = self._tail = b""
        self._pos = self.pending = 0


def _fit_choice(choice: ChunkChoice) -> None:
    settle(choice.delta)
    choice.finish_reason = choice.finish_reason or None


def _peek(data: bytes) -> Any:
    """Decode an event's payload to plain data; None if it can't be."""
    try:
        return loads(data)
    except (ValueError, RecursionError):
        return None


def _is_whole(event: Event) -> bool:
    """Whether an event that no blank line ended is there all the same: what was torn does not parse."""
    return event.type == "error" or event.data.strip() == _DONE or is_object(_peek(event.data))
