"""The events of a stream: those of ``openai``'s ``chat.completions.stream()``, and more.

Each event names its choice. A snapshot is joined when it is read, so that the cost of an event does not depend on how much
came before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

import msgspec

from ..assembly import CompletionAssembler
from ..output import match_opening
from ..partial import PartialJSON
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage, Convertible, TokenLogprob, ToolCall
from ..types.nesting import MAX_DEPTH, decode_arguments

if TYPE_CHECKING:
    # `typing.TypeVar` has defaults from Python 3.13 on. Type checkers know `typing_extensions` even where it is not installed.
    from typing_extensions import TypeVar

    T_co = TypeVar("T_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)


class _Memory:
    """A slot for data of an event that is not a field: the state of the assembler at the moment of the event.

    A slot of a base class is no field of a Struct. So repr, encoding, comparison and pickling concern the event alone, and
    events that are stored do not each store everything that was received before. The base of all events has the slot, because
    a class with a slot and one with fields cannot be the bases of another.
    """

    __slots__ = ("_memory",)

    _memory: Any

    def _recall(self) -> Any:
        try:
            return self._memory
        except AttributeError:
            raise AttributeError(
                "a copy of an event has no snapshot and no parsed answer: copying and pickling keep the event's own fields only"
            ) from None


class Event(_Memory, Convertible, msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events.

    Attributes:
        turn: Number of the turn of a run, from 0; 0 outside of a run.
    """

    turn: int = 0


class _DeltaEvent(Event, frozen=True, kw_only=True):
    """Base of events that also show what was received before them."""

    def _so_far(self) -> list[Any]:
        # A list to which an assembler appends, and its length at that moment.
        memory: tuple[list[Any], int] = self._recall()
        return memory[0][: memory[1]]


class GrowingValue:
    """The value of JSON that is received in pieces. Pieces are parsed only when an event is asked for the value.

    Args:
        pieces: The pieces; an assembler appends to this list.
    """

    __slots__ = ("_json", "_parsed", "pieces")

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces
        self._parsed = 0  # number of pieces that have been parsed
        self._json = PartialJSON(max_depth=MAX_DEPTH)

    def after(self, count: int) -> Any:
        """Return the value after this number of pieces, or after more of them if it was asked for before."""
        if count > self._parsed:
            self._json.feed("".join(self.pieces[self._parsed : count]))
            self._parsed = count
        return self._json.value


_MAX_OPENING = 64  # characters of an answer in which a Markdown fence before the JSON is searched for


class GrowingAnswer(GrowingValue):
    """The value of a typed answer that is received in pieces. Before its JSON may be white space and a fence of Markdown."""

    __slots__ = ("_looked",)

    def __init__(self, pieces: list[str]) -> None:
        super().__init__(pieces)
        self._looked = False  # whether the search for a Markdown fence has ended

    def after(self, count: int) -> Any:
        """Return the value after this number of pieces, or after more of them if it was asked for before."""
        value = super().after(count)
        if self._json.valid or self._looked or value is not None:
            return value
        text = "".join(self.pieces[: self._parsed])
        self._looked = "{" in text or len(text) > _MAX_OPENING
        if opening := match_opening(text):
            self._json = PartialJSON(max_depth=MAX_DEPTH)
            value = self._json.feed(text[opening.end() :])
        return value


class ChunkEvent(Event, frozen=True, kw_only=True):
    """A chunk was received. This event comes before the other events of the chunk.

    Attributes:
        choice: None, because a chunk may hold several choices.
        chunk: The chunk.
    """

    type: Literal["chunk"] = "chunk"
    choice: int | None = None
    chunk: ChatCompletionChunk

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion as far as it has been received by now."""
        assembler: CompletionAssembler = self._recall()
        return assembler.completion


class ContentDeltaEvent(_DeltaEvent, frozen=True, kw_only=True):
    """A piece of text was received.

    Attributes:
        choice: Index of the choice.
        delta: The piece.
    """

    type: Literal["content.delta"] = "content.delta"
    choice: int
    delta: str

    @property
    def parsed(self) -> Any:
        """The part of a typed answer that is known, as plain data; None before anything is known, and without a type.

        This is one value that grows: an object is the same dict at every event of the choice. The next event changes it, so
        copy it if you want to keep it.
        """
        memory = self._recall()
        if len(memory) == 2:  # noqa: PLR2004  # the request names no type
            return None
        growing: GrowingValue
        _, count, growing, unwrap = memory
        return unwrap(growing.after(count))

    @property
    def snapshot(self) -> str:
        """The text including this piece."""
        return "".join(self._so_far())


class ContentDoneEvent(Event, Generic[T_co], frozen=True, kw_only=True):
    """The text is whole.

    Attributes:
        choice: Index of the choice.
        content: The text.
    """

    type: Literal["content.done"] = "content.done"
    choice: int
    content: str

    @property
    def parsed(self) -> T_co | None:
        """The value of a typed answer; None if the model refused, and if the request names no type.

        Raises:
            OutputError: If the text is not a value of the type.
        """
        get_value: Callable[[], T_co] | None = self._recall()
        return None if get_value is None else get_value()


class ReasoningDeltaEvent(_DeltaEvent, frozen=True, kw_only=True):
    """A piece of reasoning was received.

    Attributes:
        choice: Index of the choice.
        delta: The piece.
    """

    type: Literal["reasoning.delta"] = "reasoning.delta"
    choice: int
    delta: str

    @property
    def snapshot(self) -> str:
        """The reasoning including this piece."""
        return "".join(self._so_far())


class ReasoningDoneEvent(Event, frozen=True, kw_only=True):
    """The reasoning is whole.

    Attributes:
        choice: Index of the choice.
        reasoning: The reasoning.
    """

    type: Literal["reasoning.done"] = "reasoning.done"
    choice: int
    reasoning: str


class RefusalDeltaEvent(_DeltaEvent, frozen=True, kw_only=True):
    """A piece of a refusal was received.

    Attributes:
        choice: Index of the choice.
        delta: The piece.
    """

    type: Literal["refusal.delta"] = "refusal.delta"
    choice: int
    delta: str

    @property
    def snapshot(self) -> str:
        """The refusal including this piece."""
        return "".join(self._so_far())


class RefusalDoneEvent(Event, frozen=True, kw_only=True):
    """The refusal is whole.

    Attributes:
        choice: Index of the choice.
        refusal: The refusal.
    """

    type: Literal["refusal.done"] = "refusal.done"
    choice: int
    refusal: str


class ToolCallStartEvent(Event, frozen=True, kw_only=True):
    """A tool call has begun.

    Attributes:
        choice: Index of the choice.
        index: Index of the call.
        id: Id of the call; empty if the server has given none yet.
        name: Name of the function; empty if the server has given none yet.
    """

    type: Literal["tool_calls.start"] = "tool_calls.start"
    choice: int
    index: int
    id: str
    name: str


class FunctionToolCallArgumentsDeltaEvent(_DeltaEvent, frozen=True, kw_only=True):
    """A piece of the arguments of a tool call was received.

    Attributes:
        choice: Index of the choice.
        index: Index of the call.
        id: Id of the call.
        name: Name of the function.
        arguments_delta: The piece of JSON text.
    """

    type: Literal["tool_calls.function.arguments.delta"] = "tool_calls.function.arguments.delta"
    choice: int
    index: int
    id: str
    name: str
    arguments_delta: str

    @property
    def arguments(self) -> str:
        """The JSON text including this piece."""
        return "".join(self._so_far())

    @property
    def parsed_arguments(self) -> Any:
        """The value of the arguments so far, as `PartialJSON` reads them; None while nothing is known.

        This is one value that grows: an object is the same dict at every event of the call. The next event changes it, so
        copy it if you want to keep it.
        """
        growing: GrowingValue
        _, count, growing = self._recall()
        return growing.after(count)


class FunctionToolCallArgumentsDoneEvent(Event, frozen=True, kw_only=True):
    """A tool call is whole.

    Attributes:
        choice: Index of the choice.
        index: Index of the call.
        id: Id of the call.
        name: Name of the function.
        arguments: The JSON text; it may be cut short or not be JSON.
    """

    type: Literal["tool_calls.function.arguments.done"] = "tool_calls.function.arguments.done"
    choice: int
    index: int
    id: str
    name: str
    arguments: str

    @property
    def parsed_arguments(self) -> Any:
        """The value of the arguments, or None if they are not JSON."""
        return decode_arguments(self.arguments)


class LogprobsContentDeltaEvent(_DeltaEvent, frozen=True, kw_only=True):
    """Log probabilities of tokens of the text were received.

    Attributes:
        choice: Index of the choice.
        content: One entry for each token.
    """

    type: Literal["logprobs.content.delta"] = "logprobs.content.delta"
    choice: int
    content: list[TokenLogprob]

    @property
    def snapshot(self) -> list[TokenLogprob]:
        """All entries including these."""
        return self._so_far()


class LogprobsContentDoneEvent(Event, frozen=True, kw_only=True):
    """The log probabilities of the text are whole.

    Attributes:
        choice: Index of the choice.
        content: One entry for each token.
    """

    type: Literal["logprobs.content.done"] = "logprobs.content.done"
    choice: int
    content: list[TokenLogprob]


class LogprobsRefusalDeltaEvent(_DeltaEvent, frozen=True, kw_only=True):
    """Log probabilities of tokens of the refusal were received.

    Attributes:
        choice: Index of the choice.
        refusal: One entry for each token.
    """

    type: Literal["logprobs.refusal.delta"] = "logprobs.refusal.delta"
    choice: int
    refusal: list[TokenLogprob]

    @property
    def snapshot(self) -> list[TokenLogprob]:
        """All entries including these."""
        return self._so_far()


class LogprobsRefusalDoneEvent(Event, frozen=True, kw_only=True):
    """The log probabilities of the refusal are whole.

    Attributes:
        choice: Index of the choice.
        refusal: One entry for each token.
    """

    type: Literal["logprobs.refusal.done"] = "logprobs.refusal.done"
    choice: int
    refusal: list[TokenLogprob]


class FinishEvent(Event, frozen=True, kw_only=True):
    """A choice has ended. This event comes after the done events of the choice.

    Attributes:
        choice: Index of the choice.
        finish_reason: Why the choice ended.
    """

    type: Literal["finish"] = "finish"
    choice: int
    finish_reason: str


class UsageEvent(Event, frozen=True, kw_only=True):
    """The server reported the usage.

    Attributes:
        choice: None, because the usage belongs to all choices together.
        usage: Tokens used so far or in all.
    """

    type: Literal["usage"] = "usage"
    choice: int | None = None
    usage: CompletionUsage


class ToolStartedEvent(Event, frozen=True, kw_only=True):
    """The model has called a tool. The tools of a turn begin when the last event of this kind in the turn has been taken.

    Attributes:
        choice: Index of the choice, which is 0.
        index: Position of the call in ``message.tool_calls``.
        id: Id of the call.
        name: Name of the tool.
        arguments: The arguments as the function gets them, or the text of the model if they do not fit.
        call: The call.
    """

    type: Literal["tool.started"] = "tool.started"
    choice: int = 0
    index: int
    id: str
    name: str
    arguments: dict[str, Any] | str
    call: ToolCall


# The encoded names of `result` and `error` have the prefix of fields that are left out of encoded events, because their values
# may be any objects.
class ToolFinishedEvent(Event, frozen=True, kw_only=True):
    """A tool has finished. These events come in the order in which the tools finish.

    Attributes:
        choice: Index of the choice, which is 0.
        index: Position of the call in ``message.tool_calls``.
        id: Id of the call.
        name: Name of the tool.
        arguments: The arguments as the function got them, or the text of the model if they do not fit.
        call: The call.
        content: The result or the error as text, as the model gets it.
        result: The object that the function returned, or None; not in `to_dict`.
        error: The error in place of a result, or None; not in `to_dict`.
        seconds: How long the function ran.
    """

    type: Literal["tool.finished"] = "tool.finished"
    choice: int = 0
    index: int
    id: str
    name: str
    arguments: dict[str, Any] | str
    call: ToolCall
    content: str
    result: Any = msgspec.field(default=None, name="@result")
    error: Exception | None = msgspec.field(default=None, name="@error")
    seconds: float


ChatCompletionStreamEvent: TypeAlias = (
    ChunkEvent
    | ContentDeltaEvent
    | ContentDoneEvent[T_co]
    | ReasoningDeltaEvent
    | ReasoningDoneEvent
    | RefusalDeltaEvent
    | RefusalDoneEvent
    | ToolCallStartEvent
    | FunctionToolCallArgumentsDeltaEvent
    | FunctionToolCallArgumentsDoneEvent
    | LogprobsContentDeltaEvent
    | LogprobsContentDoneEvent
    | LogprobsRefusalDeltaEvent
    | LogprobsRefusalDoneEvent
    | FinishEvent
    | UsageEvent
)
ToolRunEvent: TypeAlias = ChatCompletionStreamEvent[T_co] | ToolStartedEvent | ToolFinishedEvent
