"""The whole answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from ..config import Limits
from ..errors import StreamError, StreamLimitError, choice_index_error
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage, TextBatch
from .choices import ChoiceState
from .plain import copied, json_size, merge

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
        "_known",
        "_limits",
        "_max_calls",
        "_max_choices",
        "_most",
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
        self._max_calls = limits.tool_calls
        self._strict = strict
        self._size = 0
        self._most = sys.maxsize if limits.completion_bytes is None else limits.completion_bytes
        self._known = False  # whether id, model and time have been told
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
        # Nearly all chunks add to one choice, and tell nothing else that is new.
        try:
            [choice] = chunk.choices
            state = self.choices[choice.index]
        except (ValueError, KeyError):
            self._add_any(chunk)
            return
        delta = choice.delta
        if (
            (delta.role is not None and not state.role)
            or delta.refusal is not None
            or delta.function_call is not None
            or delta.annotations is not None
            or delta.audio is not None
            or delta.reasoning_details is not None
            or delta.extra_content is not None
            or delta.content_parts is not None
            or choice.finish_reason is not None
            or chunk.usage is not None
            or chunk.retrieval is not None
            or chunk.functions is not None
            or chunk.guardrails is not None
            or (chunk.system_fingerprint is not None and self.system_fingerprint is None)
            or (chunk.service_tier is not None and self.service_tier is None)
            or not self._known
        ):
            self._add_any(chunk)
            return
        size = self._size
        text = delta.content
        if text is not None:
            state.content.append(text)
            size += len(text)
        if delta.reasoning_content is not None:
            state.reasoning.append(delta.reasoning_content)
            size += len(delta.reasoning_content)
        if delta.tool_calls is not None:
            size += state.add_calls(delta.tool_calls, self._max_calls)
        if choice.logprobs is not None:
            size += state.add_logprobs(choice.logprobs)
        self._size = size
        if size > self._most:
            self._refuse_size()

    def extend(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Add several chunks; the same as `add` for each.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more choices, calls or bytes than `Limits` allow.
        """
        if type(chunks) is TextBatch and chunks.texts:
            if chunks.choices is None:
                self._add_run(chunks)
            else:
                self._add_runs(chunks, chunks.choices)
            return
        add = self.add
        for chunk in chunks:
            add(chunk)

    def _add_any(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk, whatever it holds."""
        if not self._known:
            self._head(chunk)
        for choice in chunk.choices:
            state = self.choices.get(choice.index) or self._open(choice.index)
            self._size += state.add(choice.delta, self._max_calls)
            if choice.logprobs is not None:
                self._size += state.add_logprobs(choice.logprobs)
            if choice.finish_reason is not None:
                state.finish_reason = choice.finish_reason
        self._add_rest(chunk)
        if self._size > self._most:
            self._refuse_size()

    def _add_run(self, run: TextBatch) -> None:
        """Add chunks that differ in their text alone: after the first, there is nothing but text to add."""
        first = run[0]
        self._head(first)
        choice = first.choices[0]
        state = self.choices.get(choice.index) or self._open(choice.index)
        try:
            self.add(first)
        finally:  # what came behind the piece that is too much has been received as well
            texts = run.texts[1:]
            pieces = state.content if run.field == "content" else state.reasoning
            if run.field == "arguments":
                pieces = state.touched[0].arguments if state.touched else []  # none if the call was refused
            pieces += texts
            self._size += sum(map(len, texts))
        if self._size > self._most:
            self._refuse_size()

    def _add_runs(self, run: TextBatch, choices: list[int]) -> None:
        """Add chunks that differ in text and choice: where all choices have begun, there is nothing but text to add."""
        first = run[0]
        role = first.choices[0].delta.role
        pieces: dict[int, list[str]] = {}
        for index in set(choices):
            state = self.choices.get(index)
            if state is None or not self._known or (role is not None and not state.role):
                self._add_each(run)
                return
            pieces[index] = state.content if run.field == "content" else state.reasoning
        texts = run.texts
        for index, text in zip(choices, texts, strict=True):
            pieces[index].append(text)
        self._size += sum(map(len, texts))
        self._add_rest(first)
        if self._size > self._most:
            self._refuse_size()

    def _add_each(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Add chunks, also those behind one that is refused: they have been received as well."""
        refused: StreamError | None = None
        for chunk in chunks:
            try:
                self.add(chunk)
            except StreamError as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _refuse_size(self) -> NoReturn:
        raise StreamLimitError(
            f"the completion has more than completion_bytes={self._limits.completion_bytes} characters; "
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
        """Take what is told once, from the first chunk that tells it."""
        self.seen = True
        if not self.id:
            self.id = chunk.id
        if not self.model:
            self.model = chunk.model
        if not self.created:
            self.created = chunk.created
        self._known = bool(self.id and self.model and self.created)

    def _open(self, index: int) -> ChoiceState:
        if not 0 <= index < self._max_choices:
            raise choice_index_error(index, self._max_choices)
        state = self.choices[index] = ChoiceState(index)
        return state

    def _add_rest(self, chunk: ChatCompletionChunk) -> None:
        """Add what a chunk says of the whole answer."""
        if chunk.usage is not None:
            self.usage = chunk.usage
        if self.system_fingerprint is None:
            self.system_fingerprint = chunk.system_fingerprint
        if self.service_tier is None:
            self.service_tier = chunk.service_tier
        for name in ("retrieval", "functions", "guardrails"):
            piece = getattr(chunk, name)
            if piece is not None:
                self._extras[name] = merge(self._extras.get(name), piece)
                self._size += json_size(piece)
