"""Queues of chunks for consumers that do not read in step."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from ..assembly import ChoiceState
from ..types import (
    ChatCompletionChunk,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    FunctionDelta,
    ToolCallDelta,
)

__all__ = ["Lane", "Mark", "catch_up", "mark_of"]

# A consumer may lag this many chunks before text deltas are merged: who keeps up sees each by itself.
_MERGE_FROM = 64
# What a queued chunk weighs beside its text, in characters: roughly its bytes in memory.
_WEIGHT = 500

_PLAIN = ChoiceDelta()


class Lane:
    """Chunks that came and were not taken yet.

    Args:
        limit: Most characters to hold, each chunk's own weight included.

    Attributes:
        overflowed: Whether the limit was exceeded; what was held is dropped then.
        waiters: Who waits for a chunk.
    """

    __slots__ = ("_limit", "_merged", "_queue", "_size", "overflowed", "waiters")

    def __init__(self, limit: int) -> None:
        self._queue: deque[ChatCompletionChunk] = deque()
        # Pieces of text merged into the last chunk of the queue, joined when it is taken or closed.
        self._merged: list[str] = []
        self._size = 0
        self._limit = limit
        self.overflowed = False
        self.waiters: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk; merge its text into the last one where many are waiting."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self.overflowed:
            return
        self._size += _weight(chunk)
        if len(self._queue) >= _MERGE_FROM and self._merge(chunk):
            return
        self._settle()
        self._size += _WEIGHT
        if self._size > self._limit:
            self.overflowed = True
            self._queue.clear()
            return
        self._queue.append(chunk)

    def _merge(self, chunk: ChatCompletionChunk) -> bool:
        last = self._queue[-1]
        text = _plain_text(chunk)
        if text is None or _plain_text(last) is None or last.choices[0].index != chunk.choices[0].index:
            return False
        self._merged.append(text)
        return True

    def take(self) -> ChatCompletionChunk:
        """Return the oldest chunk."""
        if len(self._queue) == 1:
            self._settle()
        chunk = self._queue.popleft()
        self._size -= _weight(chunk) + _WEIGHT
        return chunk

    def _settle(self) -> None:
        """Join what was merged into the last chunk, which is a copy: others may hold the original."""
        if not self._merged:
            return
        last = self._queue[-1]
        choice = last.choices[0]
        text = (choice.delta.content or "") + "".join(self._merged)
        self._merged = []
        self._queue[-1] = msgspec.structs.replace(
            last, choices=[ChunkChoice(index=choice.index, delta=ChoiceDelta(content=text))]
        )


def _plain_text(chunk: ChatCompletionChunk) -> str | None:
    """The text of a chunk that holds nothing but text of one choice."""
    if len(chunk.choices) != 1 or chunk.usage is not None:
        return None
    choice = chunk.choices[0]
    text = choice.delta.content
    if text is None or choice.finish_reason is not None or choice.logprobs is not None:
        return None
    return text if msgspec.structs.replace(choice.delta, content=None) == _PLAIN else None


def _weight(chunk: ChatCompletionChunk) -> int:
    size = 0
    for choice in chunk.choices:
        delta = choice.delta
        for text in (delta.content, delta.reasoning_content, delta.refusal):
            size += len(text) if text is not None else 0
        for call in delta.tool_calls or ():
            size += len(call.function.arguments or "")
        if choice.logprobs is not None:
            entries = (choice.logprobs.content or []) + (choice.logprobs.refusal or [])
            size += _WEIGHT * sum(1 + len(entry.top_logprobs) for entry in entries)
    return size


class Mark(msgspec.Struct, frozen=True):
    """How far a choice had come at some moment."""

    content: int = 0
    reasoning: int = 0
    refusal: int = 0
    logprobs: int = 0
    refusal_logprobs: int = 0
    calls: tuple[int, ...] = ()
    finished: bool = False
    role: bool = False


def mark_of(state: ChoiceState) -> Mark:
    """Note how far a choice has come."""
    return Mark(
        content=len(state.content),
        reasoning=len(state.reasoning),
        refusal=len(state.refusal),
        logprobs=len(state.logprobs or ()),
        refusal_logprobs=len(state.refusal_logprobs or ()),
        calls=tuple(len(call.arguments) for call in state.calls),
        finished=state.finish_reason is not None,
        role=bool(state.role),
    )


def catch_up(state: ChoiceState, mark: Mark, like: ChatCompletionChunk) -> ChatCompletionChunk | None:
    """Return one chunk with everything that came to a choice after a mark; None if nothing did.

    Args:
        state: The choice as it is now.
        mark: How far it had come.
        like: A chunk to take id, model and the like from.
    """
    calls = [
        ToolCallDelta(
            index=call.index,
            id=call.id if new else None,
            type=call.type or None if new else None,
            function=FunctionDelta(name=call.name if new else None, arguments="".join(call.arguments[seen:])),
        )
        for ordinal, call in enumerate(state.calls)
        for new in (ordinal >= len(mark.calls),)
        for seen in (0 if new else mark.calls[ordinal],)
        if new or len(call.arguments) > seen
    ]
    logprobs = (state.logprobs or [])[mark.logprobs :]
    refusal_logprobs = (state.refusal_logprobs or [])[mark.refusal_logprobs :]
    choice = ChunkChoice(
        index=state.index,
        delta=ChoiceDelta(
            role=None if mark.role else state.role or None,
            content=_since(state.content, mark.content),
            reasoning_content=_since(state.reasoning, mark.reasoning),
            refusal=_since(state.refusal, mark.refusal),
            tool_calls=calls or None,
        ),
        finish_reason=None if mark.finished else state.finish_reason,
        logprobs=ChoiceLogprobs(content=logprobs or None, refusal=refusal_logprobs or None)
        if logprobs or refusal_logprobs
        else None,
    )
    if choice == ChunkChoice(index=state.index):
        return None
    return msgspec.structs.replace(like, choices=[choice], usage=None)


def _since(pieces: list[str], seen: int) -> str | None:
    return None if len(pieces) <= seen else "".join(pieces[seen:])
