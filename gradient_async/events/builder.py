"""Makes typed events from chunks."""

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
    Prefix,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    RefusalDeltaEvent,
    RefusalDoneEvent,
    ToolCallStartEvent,
    UsageEvent,
)


class _Progress:
    """How much of a choice the events have reported: lengths of the lists in `ChoiceState`."""

    def __init__(self) -> None:
        self.calls_started = 0
        # For each call with a done event, the number of pieces of arguments it had; by position in `ChoiceState.calls`.
        self.calls_done: dict[int, int] = {}
        self.content = 0
        self.reasoning = 0
        self.refusal = 0
        self.logprobs = 0
        self.refusal_logprobs = 0


class EventBuilder:
    """Makes events from chunks.

    Nothing is final before a finish_reason or the end of the stream: arguments that parse may still be the beginning of
    longer arguments. Therefore done events come only after a finish_reason or at the end. A choice that continues after
    its finish_reason gets further done events at the end of the stream, with everything it has then.

    Args:
        assembler: The assembler. Each chunk must be added to it before the chunk is passed to `add`.
    """

    def __init__(self, assembler: CompletionAssembler) -> None:
        self._assembler = assembler
        self._progress: dict[int, _Progress] = {}

    def add(self, chunk: ChatCompletionChunk) -> Iterator[ChatCompletionStreamEvent]:
        """Return the events of the chunk that was added to the assembler last."""
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
        """Return the done events of choices that had no finish_reason, or that continued after it."""
        for index in sorted(self._assembler.choices):
            yield from self._done(self._assembler.choices[index])

    def _deltas(self, choice: ChunkChoice, state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        delta = choice.delta
        index = choice.index
        if delta.reasoning_content:
            yield ReasoningDeltaEvent(
                choice=index,
                delta=delta.reasoning_content,
                _prefix=Prefix(state.reasoning, len(state.reasoning)),
            )
        if delta.content:
            yield ContentDeltaEvent(
                choice=index, delta=delta.content, _prefix=Prefix(state.content, len(state.content))
            )
        if delta.refusal:
            yield RefusalDeltaEvent(
                choice=index, delta=delta.refusal, _prefix=Prefix(state.refusal, len(state.refusal))
            )
        if delta.tool_calls is not None:
            yield from self._calls(delta.tool_calls, state)
        logprobs = choice.logprobs
        if logprobs is not None:
            if logprobs.content and state.logprobs is not None:
                yield LogprobsContentDeltaEvent(
                    choice=index,
                    content=logprobs.content,
                    _prefix=Prefix(state.logprobs, len(state.logprobs)),
                )
            if logprobs.refusal and state.refusal_logprobs is not None:
                yield LogprobsRefusalDeltaEvent(
                    choice=index,
                    refusal=logprobs.refusal,
                    _prefix=Prefix(state.refusal_logprobs, len(state.refusal_logprobs)),
                )

    def _calls(self, entries: list[ToolCallDelta], state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        progress = self._progress.setdefault(state.index, _Progress())
        started = state.calls[progress.calls_started :]
        progress.calls_started = len(state.calls)
        # Two fragments of one chunk may belong to the same call. The call's list already has both pieces, so the prefix for
        # the first fragment must end before the piece of the second.
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
                    _prefix=Prefix(call.arguments, len(call.arguments) - counts[id(call)]),
                )

    def _done(self, state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        progress = self._progress.setdefault(state.index, _Progress())
        index = state.index
        if len(state.reasoning) > progress.reasoning:
            progress.reasoning = len(state.reasoning)
            yield ReasoningDoneEvent(choice=index, reasoning="".join(state.reasoning))
        if len(state.content) > progress.content:
            progress.content = len(state.content)
            yield ContentDoneEvent(choice=index, content="".join(state.content))
        if len(state.refusal) > progress.refusal:
            progress.refusal = len(state.refusal)
            yield RefusalDoneEvent(choice=index, refusal="".join(state.refusal))
        for ordinal, call in enumerate(state.calls):
            if len(call.arguments) > progress.calls_done.get(ordinal, -1):
                progress.calls_done[ordinal] = len(call.arguments)
                yield _call_done(index, call)
        if state.logprobs is not None and len(state.logprobs) > progress.logprobs:
            progress.logprobs = len(state.logprobs)
            yield LogprobsContentDoneEvent(choice=index, content=list(state.logprobs))
        if state.refusal_logprobs is not None and len(state.refusal_logprobs) > progress.refusal_logprobs:
            progress.refusal_logprobs = len(state.refusal_logprobs)
            yield LogprobsRefusalDoneEvent(choice=index, refusal=list(state.refusal_logprobs))


def _call_done(choice: int, call: CallState) -> FunctionToolCallArgumentsDoneEvent:
    return FunctionToolCallArgumentsDoneEvent(
        choice=choice, index=call.index, id=call.id, name=call.name, arguments="".join(call.arguments)
    )
