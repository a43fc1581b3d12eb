"""Chunks to typed events."""

from __future__ import annotations

from collections.abc import Iterator

from ..assembly import CallState, ChoiceState, CompletionAssembler
from ..types import ChatCompletionChunk, ChunkChoice, ToolCallDelta
from .types import (
    ChatCompletionStreamEvent,
    ChunkEvent,
    ContentDeltaEvent,
    ContentDoneEvent,
    FinishEvent,
    FunctionToolCallArgumentsDeltaEvent,
    FunctionToolCallArgumentsDoneEvent,
    LogprobsContentDeltaEvent,
    LogprobsContentDoneEvent,
    LogprobsRefusalDeltaEvent,
    LogprobsRefusalDoneEvent,
    Pieces,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    RefusalDeltaEvent,
    RefusalDoneEvent,
    ToolCallStartEvent,
    UsageEvent,
)

__all__ = ["EventBuilder"]


class _Told:
    """How much of a choice has been told as started or done."""

    __slots__ = (
        "calls_done",
        "calls_started",
        "content",
        "logprobs",
        "reasoning",
        "refusal",
        "refusal_logprobs",
    )

    def __init__(self) -> None:
        self.calls_started = 0
        self.calls_done: dict[int, int] = {}
        self.content = 0
        self.reasoning = 0
        self.refusal = 0
        self.logprobs = 0
        self.refusal_logprobs = 0


class EventBuilder:
    """Tells what each chunk brought.

    Nothing is final before a finish_reason or the end: only these bring the done events.

    Args:
        assembler: What the chunks were added to, before they are given here.
    """

    def __init__(self, assembler: CompletionAssembler) -> None:
        self._assembler = assembler
        self._told: dict[int, _Told] = {}

    def add(self, chunk: ChatCompletionChunk) -> Iterator[ChatCompletionStreamEvent]:
        """Return the events of a chunk that the assembler has just added."""
        yield ChunkEvent(chunk=chunk, _assembler=self._assembler)
        for choice in chunk.choices:
            state = self._assembler.choices[choice.index]
            yield from self._deltas(choice, state)
            if choice.finish_reason is not None:
                yield from self._done(state)
                yield FinishEvent(choice=choice.index, finish_reason=choice.finish_reason)
        if chunk.usage is not None:
            yield UsageEvent(usage=chunk.usage)

    def end(self) -> Iterator[ChatCompletionStreamEvent]:
        """Return the done events of choices that never had a finish_reason, or went on after it."""
        for index in sorted(self._assembler.choices):
            yield from self._done(self._assembler.choices[index])

    def _deltas(self, choice: ChunkChoice, state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        delta = choice.delta
        index = choice.index
        if delta.reasoning_content:
            yield ReasoningDeltaEvent(
                choice=index,
                delta=delta.reasoning_content,
                _pieces=Pieces(state.reasoning, len(state.reasoning)),
            )
        if delta.content:
            yield ContentDeltaEvent(
                choice=index, delta=delta.content, _pieces=Pieces(state.content, len(state.content))
            )
        if delta.refusal:
            yield RefusalDeltaEvent(
                choice=index, delta=delta.refusal, _pieces=Pieces(state.refusal, len(state.refusal))
            )
        if delta.tool_calls is not None:
            yield from self._calls(delta.tool_calls, state)
        logprobs = choice.logprobs
        if logprobs is not None:
            if logprobs.content and state.logprobs is not None:
                yield LogprobsContentDeltaEvent(
                    choice=index,
                    content=logprobs.content,
                    _pieces=Pieces(state.logprobs, len(state.logprobs)),
                )
            if logprobs.refusal and state.refusal_logprobs is not None:
                yield LogprobsRefusalDeltaEvent(
                    choice=index,
                    refusal=logprobs.refusal,
                    _pieces=Pieces(state.refusal_logprobs, len(state.refusal_logprobs)),
                )

    def _calls(self, entries: list[ToolCallDelta], state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        told = self._told.setdefault(state.index, _Told())
        started = state.calls[told.calls_started :]
        told.calls_started = len(state.calls)
        # A call may be touched twice in one chunk: count its pieces from where they were.
        counts: dict[int, int] = {}
        for entry, call in zip(entries, state.touched, strict=True):
            if entry.function.arguments is not None:
                counts[id(call)] = counts.get(id(call), 0) + 1
        for entry, call in zip(entries, state.touched, strict=True):
            if any(call is new for new in started):
                started = [new for new in started if new is not call]
                yield ToolCallStartEvent(choice=state.index, index=call.index, id=call.id, name=call.name)
            arguments = entry.function.arguments
            if arguments is None:
                continue
            counts[id(call)] -= 1
            if arguments:
                yield FunctionToolCallArgumentsDeltaEvent(
                    choice=state.index,
                    index=call.index,
                    id=call.id,
                    name=call.name,
                    arguments_delta=arguments,
                    _pieces=Pieces(call.arguments, len(call.arguments) - counts[id(call)]),
                )

    def _done(self, state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        told = self._told.setdefault(state.index, _Told())
        index = state.index
        if len(state.reasoning) > told.reasoning:
            told.reasoning = len(state.reasoning)
            yield ReasoningDoneEvent(choice=index, reasoning="".join(state.reasoning))
        if len(state.content) > told.content:
            told.content = len(state.content)
            yield ContentDoneEvent(choice=index, content="".join(state.content))
        if len(state.refusal) > told.refusal:
            told.refusal = len(state.refusal)
            yield RefusalDoneEvent(choice=index, refusal="".join(state.refusal))
        for ordinal, call in enumerate(state.calls):
            if len(call.arguments) > told.calls_done.get(ordinal, -1):
                told.calls_done[ordinal] = len(call.arguments)
                yield _call_done(index, call)
        if state.logprobs is not None and len(state.logprobs) > told.logprobs:
            told.logprobs = len(state.logprobs)
            yield LogprobsContentDoneEvent(choice=index, content=list(state.logprobs))
        if state.refusal_logprobs is not None and len(state.refusal_logprobs) > told.refusal_logprobs:
            told.refusal_logprobs = len(state.refusal_logprobs)
            yield LogprobsRefusalDoneEvent(choice=index, refusal=list(state.refusal_logprobs))


def _call_done(choice: int, call: CallState) -> FunctionToolCallArgumentsDoneEvent:
    return FunctionToolCallArgumentsDoneEvent(
        choice=choice, index=call.index, id=call.id, name=call.name, arguments="".join(call.arguments)
    )
