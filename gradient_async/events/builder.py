"""Makes typed events from chunks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, TypeVar, cast

from msgspec.structs import force_setattr

from ..assembly import CallState, ChoiceState, CompletionAssembler
from ..errors import StreamError
from ..output import Answer, value_of
from ..types import ChatCompletion, ChatCompletionChunk, ChunkChoice
from .types import (
    ChatCompletionStreamEvent,
    ChunkEvent,
    ContentDeltaEvent,
    ContentDoneEvent,
    Event,
    FinishEvent,
    FunctionToolCallArgumentsDeltaEvent,
    FunctionToolCallArgumentsDoneEvent,
    GrowingAnswer,
    GrowingValue,
    LogprobsContentDeltaEvent,
    LogprobsContentDoneEvent,
    LogprobsRefusalDeltaEvent,
    LogprobsRefusalDoneEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    RefusalDeltaEvent,
    RefusalDoneEvent,
    ToolCallStartEvent,
    UsageEvent,
)

E = TypeVar("E", bound=Event)


class _Progress:
    """How much of a choice the events have reported: lengths of the lists in `ChoiceState`."""

    def __init__(self) -> None:
        self.calls_started = 0
        # For each call, by its ordinal: the list of pieces at the last done event, and the length of the list.
        self.calls_done: dict[int, tuple[list[str], int]] = {}
        self.arguments: dict[int, GrowingValue] = {}  # the arguments so far, by the ordinal of each call
        self.answer: GrowingAnswer | None = None  # the value so far, if the text is a typed answer
        self.content = 0
        self.reasoning = 0
        self.refusal = 0
        self.logprobs = 0
        self.refusal_logprobs = 0
        self.finished = False  # whether the done events of a finish_reason have been made
        self.finished_again = False


class EventBuilder:
    """Makes events from chunks.

    Nothing is final before a finish_reason or the end of the stream: arguments that are whole JSON may still be the
    beginning of longer arguments. Therefore done events are made only at the first finish_reason of a choice and at the end
    of the stream. If a choice continues after its finish_reason, the end has further done events with all text. If another
    finish_reason was received, the end also has another finish event. Some servers send a finish_reason in each chunk, and
    joining all text for each of them would take quadratic time.

    Args:
        assembler: The assembler. Each chunk must be added to it before the chunk is passed to `add`.
        answer: The form of the answers; None if the request names no type.
        get_completion: Returns the completion so far, for errors of answers; None for that of the assembler.
    """

    def __init__(
        self,
        assembler: CompletionAssembler,
        answer: Answer[Any] | None = None,
        get_completion: Callable[[], ChatCompletion] | None = None,
    ) -> None:
        self._assembler = assembler
        self._answer = answer
        self._get_completion = get_completion or (lambda: assembler.completion)
        self._detached = False
        self._progress: dict[int, _Progress] = {}

    def detach(self) -> None:
        """Continue with a copy of the assembler, to which `add` adds the chunks.

        A snapshot of an event shows the completion up to the chunk of the event. If single choices are read as well, chunks
        for the reader of events wait in a queue, and the stream's assembler already has them.
        """
        if not self._detached:
            # Both are copied together, because the progress refers to lists of the assembler.
            self._assembler, self._progress = copy.deepcopy((self._assembler, self._progress))
            self._detached = True

    def add(self, chunk: ChatCompletionChunk) -> list[ChatCompletionStreamEvent]:
        """Return the events of the chunk that was added to the assembler last."""
        assembler = self._assembler
        if self._detached:
            with contextlib.suppress(StreamError):  # the stream's own assembler reports the same error
                assembler.add(chunk)
        event = ChunkEvent(chunk=chunk)
        force_setattr(event, "_memory", assembler)
        events: list[ChatCompletionStreamEvent] = [event]
        for choice in chunk.choices:
            state = assembler.choices[choice.index]
            self._add_deltas(events, choice, state)
            if choice.finish_reason is not None:
                progress = self._progress_of(state)
                if progress.finished:
                    progress.finished_again = True
                    continue
                progress.finished = True
                events += self._done(state)
                events.append(FinishEvent(choice=choice.index, finish_reason=choice.finish_reason))
        if chunk.usage is not None and assembler.usage is not None:
            events.append(UsageEvent(usage=assembler.usage))
        return events

    def end(self) -> Iterator[ChatCompletionStreamEvent]:
        """Return the done events of choices that had no finish_reason, or that continued after it."""
        for index in sorted(self._assembler.choices):
            state = self._assembler.choices[index]
            yield from self._done(state)
            if self._progress_of(state).finished_again and state.finish_reason is not None:
                yield FinishEvent(choice=index, finish_reason=state.finish_reason)

    def _progress_of(self, state: ChoiceState) -> _Progress:
        progress = self._progress.get(state.index)
        if progress is None:
            progress = self._progress[state.index] = _Progress()
        return progress

    def _add_deltas(
        self, events: list[ChatCompletionStreamEvent], choice: ChunkChoice, state: ChoiceState
    ) -> None:
        delta = choice.delta
        index = choice.index
        if delta.reasoning_content:
            event = ReasoningDeltaEvent(choice=index, delta=delta.reasoning_content)
            events.append(_at_this_moment(event, state.reasoning))
        if delta.content:
            # Nearly all deltas are text, so `_at_this_moment` is inlined here to save the call.
            text = ContentDeltaEvent(choice=index, delta=delta.content)
            force_setattr(
                text,
                "_memory",
                (state.content, len(state.content)) if self._answer is None else self._answer_so_far(state),
            )
            events.append(text)
        if delta.refusal:
            refusal = RefusalDeltaEvent(choice=index, delta=delta.refusal)
            events.append(_at_this_moment(refusal, state.refusal))
        if delta.tool_calls is not None:
            events += self._calls(state)
        logprobs = choice.logprobs
        if logprobs is not None:
            if logprobs.content and state.logprobs is not None:
                tokens = LogprobsContentDeltaEvent(choice=index, content=logprobs.content)
                events.append(_at_this_moment(tokens, state.logprobs))
            if logprobs.refusal and state.refusal_logprobs is not None:
                refused = LogprobsRefusalDeltaEvent(choice=index, refusal=logprobs.refusal)
                events.append(_at_this_moment(refused, state.refusal_logprobs))

    def _answer_so_far(self, state: ChoiceState) -> tuple[list[str], int, GrowingValue, Callable[[Any], Any]]:
        progress = self._progress_of(state)
        if progress.answer is None:
            progress.answer = GrowingAnswer(state.content)
        return state.content, len(state.content), progress.answer, cast("Answer[Any]", self._answer).unwrap

    def _calls(self, state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        progress = self._progress_of(state)
        index = state.index
        for call, text, pieces, count in state.calls.added:
            if call.ordinal >= progress.calls_started:
                progress.calls_started = call.ordinal + 1
                yield ToolCallStartEvent(choice=index, index=call.number, id=call.id, name=call.name)
            if text:
                yield _call_delta(progress, index, call, pieces, count)

    def _done(self, state: ChoiceState) -> Iterator[ChatCompletionStreamEvent]:
        progress = self._progress_of(state)
        index = state.index
        if reasoning := _new_text(state.reasoning, progress.reasoning):
            progress.reasoning = len(state.reasoning)
            yield ReasoningDoneEvent(choice=index, reasoning=reasoning)
        if content := _new_text(state.content, progress.content):
            progress.content = len(state.content)
            done = ContentDoneEvent[Any](choice=index, content=content)
            # The answer is decoded when `parsed` is first read, and then cached.
            get_value = None
            if self._answer is not None:
                get_value = cache(partial(value_of, state.to_choice(), self._answer, self._get_completion))
            force_setattr(done, "_memory", get_value)
            yield done
        if refusal := _new_text(state.refusal, progress.refusal):
            progress.refusal = len(state.refusal)
            yield RefusalDoneEvent(choice=index, refusal=refusal)
        for call, id_ in state.calls.distinct():
            pieces = call.arguments.pieces
            known, count = progress.calls_done.get(call.ordinal, (None, 0))
            if known is pieces and count == len(pieces):
                continue
            progress.calls_done[call.ordinal] = (pieces, len(pieces))
            if call.arguments.is_placeholder:
                yield _call_delta(progress, index, call, pieces, 1)
            yield FunctionToolCallArgumentsDoneEvent(
                choice=index, index=call.number, id=id_, name=call.name, arguments="".join(pieces)
            )
        if state.logprobs is not None and len(state.logprobs) > progress.logprobs:
            progress.logprobs = len(state.logprobs)
            yield LogprobsContentDoneEvent(choice=index, content=list(state.logprobs))
        if state.refusal_logprobs is not None and len(state.refusal_logprobs) > progress.refusal_logprobs:
            progress.refusal_logprobs = len(state.refusal_logprobs)
            yield LogprobsRefusalDoneEvent(choice=index, refusal=list(state.refusal_logprobs))


def _new_text(pieces: list[str], reported: int) -> str:
    """Join the pieces of a text if there are more than were reported; "" otherwise, and if all pieces are empty.

    Many servers begin a reply that only calls tools with an empty text.
    """
    return "".join(pieces) if len(pieces) > reported else ""


def _call_delta(
    progress: _Progress, choice: int, call: CallState, pieces: list[str], count: int
) -> FunctionToolCallArgumentsDeltaEvent:
    event = FunctionToolCallArgumentsDeltaEvent(
        choice=choice, index=call.number, id=call.id, name=call.name, arguments_delta=pieces[count - 1]
    )
    growing = progress.arguments.get(call.ordinal)
    # The call has another list if the arguments have replaced `{}`.
    if growing is None or growing.pieces is not pieces:
        growing = progress.arguments[call.ordinal] = GrowingValue(pieces)
    force_setattr(event, "_memory", (pieces, count, growing))
    return event


def _at_this_moment(event: E, items: list[Any]) -> E:
    """Store in an event the list of all items, and its present length, for the event's snapshot."""
    force_setattr(event, "_memory", (items, len(items)))
    return event
