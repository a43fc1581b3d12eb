"""What the events of a stream are: those of ``openai``'s ``chat.completions.stream()``, and more.

Each event names its choice. Snapshots are joined when they are looked at, so that an event costs the
same however much came before.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from ..assembly import CompletionAssembler
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage, TokenLogprob
from .partial import parse_partial

__all__ = [
    "ChatCompletionStreamEvent",
    "ChunkEvent",
    "ContentDeltaEvent",
    "ContentDoneEvent",
    "FinishEvent",
    "FunctionToolCallArgumentsDeltaEvent",
    "FunctionToolCallArgumentsDoneEvent",
    "LogprobsContentDeltaEvent",
    "LogprobsContentDoneEvent",
    "LogprobsRefusalDeltaEvent",
    "LogprobsRefusalDoneEvent",
    "Pieces",
    "ReasoningDeltaEvent",
    "ReasoningDoneEvent",
    "RefusalDeltaEvent",
    "RefusalDoneEvent",
    "ToolCallStartEvent",
    "UsageEvent",
]


class Pieces(msgspec.Struct, frozen=True):
    """The first so many items of a list that only grows."""

    items: list[Any]
    count: int

    def text(self) -> str:
        """Join them."""
        return "".join(self.items[: self.count])

    def list(self) -> list[Any]:
        """Copy them."""
        return self.items[: self.count]


class ChunkEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk came; comes before the events made of it.

    Attributes:
        choice: None: a chunk may speak of several choices.
        chunk: The chunk.
    """

    type: Literal["chunk"] = "chunk"
    choice: int | None = None
    chunk: ChatCompletionChunk
    _assembler: CompletionAssembler

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion so far, as of now."""
        return self._assembler.completion


class ContentDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of text came.

    Attributes:
        choice: Which choice.
        delta: The piece.
        parsed: Always None; there for compatibility.
    """

    type: Literal["content.delta"] = "content.delta"
    choice: int
    delta: str
    parsed: None = None
    _pieces: Pieces

    @property
    def snapshot(self) -> str:
        """The text up to and with this piece."""
        return self._pieces.text()


class ContentDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The text is whole.

    Attributes:
        choice: Which choice.
        content: The text.
        parsed: Always None; there for compatibility.
    """

    type: Literal["content.done"] = "content.done"
    choice: int
    content: str
    parsed: None = None


class ReasoningDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of reasoning came.

    Attributes:
        choice: Which choice.
        delta: The piece.
    """

    type: Literal["reasoning.delta"] = "reasoning.delta"
    choice: int
    delta: str
    _pieces: Pieces

    @property
    def snapshot(self) -> str:
        """The reasoning up to and with this piece."""
        return self._pieces.text()


class ReasoningDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The reasoning is whole.

    Attributes:
        choice: Which choice.
        reasoning: The reasoning.
    """

    type: Literal["reasoning.done"] = "reasoning.done"
    choice: int
    reasoning: str


class RefusalDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a refusal came.

    Attributes:
        choice: Which choice.
        delta: The piece.
    """

    type: Literal["refusal.delta"] = "refusal.delta"
    choice: int
    delta: str
    _pieces: Pieces

    @property
    def snapshot(self) -> str:
        """The refusal up to and with this piece."""
        return self._pieces.text()


class RefusalDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The refusal is whole.

    Attributes:
        choice: Which choice.
        refusal: The refusal.
    """

    type: Literal["refusal.done"] = "refusal.done"
    choice: int
    refusal: str


class ToolCallStartEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call began.

    Attributes:
        choice: Which choice.
        index: The call's index.
        id: The call's id; empty if the server gave none yet.
        name: The function's name; empty if the server gave none yet.
    """

    type: Literal["tool_calls.start"] = "tool_calls.start"
    choice: int
    index: int
    id: str
    name: str


class FunctionToolCallArgumentsDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a tool call's arguments came.

    Attributes:
        choice: Which choice.
        index: The call's index.
        id: The call's id.
        name: The function's name.
        arguments_delta: The piece of JSON text.
    """

    type: Literal["tool_calls.function.arguments.delta"] = "tool_calls.function.arguments.delta"
    choice: int
    index: int
    id: str
    name: str
    arguments_delta: str
    _pieces: Pieces

    @property
    def arguments(self) -> str:
        """The JSON text up to and with this piece."""
        return self._pieces.text()

    @property
    def parsed_arguments(self) -> Any:
        """The arguments as far as they can be read already; None if not at all."""
        return parse_partial(self.arguments)


class FunctionToolCallArgumentsDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call is whole.

    Attributes:
        choice: Which choice.
        index: The call's index.
        id: The call's id.
        name: The function's name.
        arguments: The JSON text; it may be cut short or not be JSON at all.
    """

    type: Literal["tool_calls.function.arguments.done"] = "tool_calls.function.arguments.done"
    choice: int
    index: int
    id: str
    name: str
    arguments: str

    @property
    def parsed_arguments(self) -> Any:
        """The arguments, or None if they are not JSON."""
        try:
            return msgspec.json.decode(self.arguments)
        except (msgspec.DecodeError, RecursionError):
            return None


class LogprobsContentDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities of some tokens of the text came.

    Attributes:
        choice: Which choice.
        content: An entry a token.
    """

    type: Literal["logprobs.content.delta"] = "logprobs.content.delta"
    choice: int
    content: list[TokenLogprob]
    _pieces: Pieces

    @property
    def snapshot(self) -> list[TokenLogprob]:
        """All entries so far."""
        return self._pieces.list()


class LogprobsContentDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """All log probabilities of the text are there.

    Attributes:
        choice: Which choice.
        content: An entry a token.
    """

    type: Literal["logprobs.content.done"] = "logprobs.content.done"
    choice: int
    content: list[TokenLogprob]


class LogprobsRefusalDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities of some tokens of the refusal came.

    Attributes:
        choice: Which choice.
        refusal: An entry a token.
    """

    type: Literal["logprobs.refusal.delta"] = "logprobs.refusal.delta"
    choice: int
    refusal: list[TokenLogprob]
    _pieces: Pieces

    @property
    def snapshot(self) -> list[TokenLogprob]:
        """All entries so far."""
        return self._pieces.list()


class LogprobsRefusalDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """All log probabilities of the refusal are there.

    Attributes:
        choice: Which choice.
        refusal: An entry a token.
    """

    type: Literal["logprobs.refusal.done"] = "logprobs.refusal.done"
    choice: int
    refusal: list[TokenLogprob]


class FinishEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A choice ended; comes after its done events.

    Attributes:
        choice: Which choice.
        finish_reason: Why.
    """

    type: Literal["finish"] = "finish"
    choice: int
    finish_reason: str


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The server told what the request took.

    Attributes:
        choice: None: usage is of all choices together.
        usage: The tokens.
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
