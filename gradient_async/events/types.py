"""The events of a stream: those of ``openai``'s ``chat.completions.stream()``, and more.

Each event names its choice. A snapshot is joined when it is read, so that the cost of an event does not depend on how much
came before.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from ..assembly import CompletionAssembler
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage, TokenLogprob
from ..types.nesting import decode_json
from .partial import parse_partial


class Prefix(msgspec.Struct, frozen=True):
    """The first items of a list that only grows: the state of an assembler at the moment of an event."""

    items: list[Any]
    count: int

    def text(self) -> str:
        """Join the items."""
        return "".join(self.items[: self.count])

    def list(self) -> list[Any]:
        """Copy the items."""
        return self.items[: self.count]


class ChunkEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk was received. This event comes before the other events of the chunk.

    Attributes:
        choice: None, because a chunk may hold several choices.
        chunk: The chunk.
    """

    type: Literal["chunk"] = "chunk"
    choice: int | None = None
    chunk: ChatCompletionChunk
    _assembler: CompletionAssembler

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion as far as it has been received by now."""
        return self._assembler.completion


class ContentDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of text was received.

    Attributes:
        choice: Index of the choice.
        delta: The piece.
        parsed: Always None; exists for compatibility.
    """

    type: Literal["content.delta"] = "content.delta"
    choice: int
    delta: str
    parsed: None = None
    _prefix: Prefix

    @property
    def snapshot(self) -> str:
        """The text including this piece."""
        return self._prefix.text()


class ContentDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The text is whole.

    Attributes:
        choice: Index of the choice.
        content: The text.
        parsed: Always None; exists for compatibility.
    """

    type: Literal["content.done"] = "content.done"
    choice: int
    content: str
    parsed: None = None


class ReasoningDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of reasoning was received.

    Attributes:
        choice: Index of the choice.
        delta: The piece.
    """

    type: Literal["reasoning.delta"] = "reasoning.delta"
    choice: int
    delta: str
    _prefix: Prefix

    @property
    def snapshot(self) -> str:
        """The reasoning including this piece."""
        return self._prefix.text()


class ReasoningDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The reasoning is whole.

    Attributes:
        choice: Index of the choice.
        reasoning: The reasoning.
    """

    type: Literal["reasoning.done"] = "reasoning.done"
    choice: int
    reasoning: str


class RefusalDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a refusal was received.

    Attributes:
        choice: Index of the choice.
        delta: The piece.
    """

    type: Literal["refusal.delta"] = "refusal.delta"
    choice: int
    delta: str
    _prefix: Prefix

    @property
    def snapshot(self) -> str:
        """The refusal including this piece."""
        return self._prefix.text()


class RefusalDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The refusal is whole.

    Attributes:
        choice: Index of the choice.
        refusal: The refusal.
    """

    type: Literal["refusal.done"] = "refusal.done"
    choice: int
    refusal: str


class ToolCallStartEvent(msgspec.Struct, frozen=True, kw_only=True):
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


class FunctionToolCallArgumentsDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
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
    _prefix: Prefix

    @property
    def arguments(self) -> str:
        """The JSON text including this piece."""
        return self._prefix.text()

    @property
    def parsed_arguments(self) -> Any:
        """The value that `parse_partial` reads from the arguments so far, or None."""
        return parse_partial(self.arguments)


class FunctionToolCallArgumentsDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
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
        try:
            return decode_json(self.arguments)
        except ValueError:
            return None


class LogprobsContentDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities of tokens of the text were received.

    Attributes:
        choice: Index of the choice.
        content: One entry for each token.
    """

    type: Literal["logprobs.content.delta"] = "logprobs.content.delta"
    choice: int
    content: list[TokenLogprob]
    _prefix: Prefix

    @property
    def snapshot(self) -> list[TokenLogprob]:
        """All entries including these."""
        return self._prefix.list()


class LogprobsContentDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The log probabilities of the text are whole.

    Attributes:
        choice: Index of the choice.
        content: One entry for each token.
    """

    type: Literal["logprobs.content.done"] = "logprobs.content.done"
    choice: int
    content: list[TokenLogprob]


class LogprobsRefusalDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities of tokens of the refusal were received.

    Attributes:
        choice: Index of the choice.
        refusal: One entry for each token.
    """

    type: Literal["logprobs.refusal.delta"] = "logprobs.refusal.delta"
    choice: int
    refusal: list[TokenLogprob]
    _prefix: Prefix

    @property
    def snapshot(self) -> list[TokenLogprob]:
        """All entries including these."""
        return self._prefix.list()


class LogprobsRefusalDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The log probabilities of the refusal are whole.

    Attributes:
        choice: Index of the choice.
        refusal: One entry for each token.
    """

    type: Literal["logprobs.refusal.done"] = "logprobs.refusal.done"
    choice: int
    refusal: list[TokenLogprob]


class FinishEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A choice has ended. This event comes after the done events of the choice.

    Attributes:
        choice: Index of the choice.
        finish_reason: Why the choice ended.
    """

    type: Literal["finish"] = "finish"
    choice: int
    finish_reason: str


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The server reported the usage.

    Attributes:
        choice: None, because the usage belongs to all choices together.
        usage: Tokens used so far or in all.
    """

    type: Literal["usage"] = "usage"
    choice: int | None = None
    usage: CompletionUsage


ChatCompletionStreamEvent: TypeAlias = (
    ChunkEvent
    | ContentDeltaEvent
    | ContentDoneEvent
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
