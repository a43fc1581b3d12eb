"""The whole answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..config import Limits
from ..errors import StreamLimitError, StreamProtocolError
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage
from .choices import ChoiceState
from .plain import copied, merge, weight

__all__ = ["CompletionAssembler"]

_DEFAULT_LIMITS = Limits()


class CompletionAssembler:
    """Adds chunks up to a completion.

    Args:
        n: How many choices were asked for; `complete` waits for them all.
        limits: Sizes a server may send.
        strict: Whether ``[DONE]`` alone, without a finish_reason, leaves the completion incomplete.

    Attributes:
        choices: What came of each choice, by index.
        usage: The last usage told.
    """

    __slots__ = (
        "_extras",
        "_limits",
        "_max_choices",
        "_n",
        "_size",
        "_strict",
        "choices",
        "created",
        "done",
        "id",
        "model",
        "seen",
        "service_tier",
        "system_fingerprint",
        "usage",
    )

    def __init__(self, *, n: int = 1, limits: Limits = _DEFAULT_LIMITS, strict: bool = False) -> None:
        self._n = n
        self._limits = limits
        self._max_choices = max(n, limits.choices)
        self._strict = strict
        self._size = 0
        self.choices: dict[int, ChoiceState] = {}
        self.usage: CompletionUsage | None = None
        self.id = ""
        self.model = ""
        self.created = 0
        self.system_fingerprint: str | None = None
        self.service_tier: str | None = None
        self._extras: dict[str, Any] = {}
        self.seen = False
        self.done = False

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk.

        Args:
            chunk: The next chunk of the stream. It is neither kept nor changed.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more choices, calls or bytes than `Limits` allow.
        """
        self.extend((chunk,))

    def extend(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Add several chunks; the same as `add` for each.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more choices, calls or bytes than `Limits` allow.
        """
        states = self.choices
        for chunk in chunks:
            if not self.id or not self.model or not self.created:
                self._head(chunk)
            for choice in chunk.choices:
                state = states.get(choice.index)
                if state is None:
                    state = self._open(choice.index)
                delta = choice.delta
                text = delta.content
                if text is not None:
                    if state.content is None:
                        state.content = []
                    state.content.append(text)
                    self._size += len(text)
                if delta.role and not state.role:
                    state.role = delta.role
                if delta.reasoning_content is not None:
                    if state.reasoning is None:
                        state.reasoning = []
                    state.reasoning.append(delta.reasoning_content)
                    self._size += len(delta.reasoning_content)
                if delta.tool_calls is not None:
                    self._size += state.add_calls(delta.tool_calls, self._limits.tool_calls)
                if delta.refusal is not None:
                    if state.refusal is None:
                        state.refusal = []
                    state.refusal.append(delta.refusal)
                    self._size += len(delta.refusal)
                if (
                    delta.function_call is not None
                    or delta.annotations is not None
                    or delta.audio is not None
                    or delta.reasoning_details is not None
                    or delta.extra_content is not None
                    or delta.content_parts is not None
                ):
                    self._size += state.add_rest(delta)
                if choice.logprobs is not None:
                    self._size += state.add_logprobs(choice.logprobs)
                if choice.finish_reason is not None:
                    state.finish_reason = choice.finish_reason
            if chunk.usage is not None:
                self.usage = chunk.usage
            if self.system_fingerprint is None:
                self.system_fingerprint = chunk.system_fingerprint
            if self.service_tier is None:
                self.service_tier = chunk.service_tier
            if chunk.retrieval is not None or chunk.functions is not None or chunk.guardrails is not None:
                self._add_extras(chunk)
        limit = self._limits.completion_bytes
        if limit is not None and self._size > limit:
            raise StreamLimitError(
                f"the completion has more than completion_bytes={limit} characters; "
                "raise Limits(completion_bytes=...) if that is meant"
            )

    def end(self, *, done: bool) -> None:
        """Say that the stream has ended.

        Args:
            done: Whether ``[DONE]`` ended it.
        """
        self.done = done

    @property
    def complete(self) -> bool:
        """Whether nothing is missing.

        After ``[DONE]`` following at least one chunk, or once every choice asked for has a finish_reason.
        """
        finished = self.finished
        return finished or (self.done and self.seen and not self._strict)

    @property
    def finished(self) -> bool:
        """Whether every choice asked for, and every choice that came, has a finish_reason."""
        return (
            len(self.choices) >= self._n
            and self.seen
            and all(state.finish_reason is not None for state in self.choices.values())
        )

    @property
    def completion(self) -> ChatCompletion:
        """What has come so far; a new object each time. Without choices if nothing has."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            usage=self.usage,
            choices=[self.choices[index].finished() for index in sorted(self.choices)],
            system_fingerprint=self.system_fingerprint,
            service_tier=self.service_tier,
            **{name: copied(value) for name, value in self._extras.items()},
        )

    def _head(self, chunk: ChatCompletionChunk) -> None:
        self.seen = True
        if not self.id:
            self.id = chunk.id
        if not self.model:
            self.model = chunk.model
        if not self.created:
            self.created = chunk.created

    def _open(self, index: int) -> ChoiceState:
        if index < 0:
            raise StreamProtocolError(f"a choice has the index {index}")
        if index >= self._max_choices:
            raise StreamLimitError(
                f"a choice has the index {index}, and choices={self._max_choices} are allowed; "
                "raise Limits(choices=...) if that is meant"
            )
        state = self.choices[index] = ChoiceState(index)
        return state

    def _add_extras(self, chunk: ChatCompletionChunk) -> None:
        for name in ("retrieval", "functions", "guardrails"):
            piece = getattr(chunk, name)
            if piece is not None:
                self._extras[name] = merge(self._extras.get(name), piece)
                self._size += weight(piece)
