"""The completion, as far as it has been received.

Theory of operation
===================

Pieces of text are appended to lists that only grow, and joined when `completion` is read. So the work for a chunk depends
on that chunk alone, everything received is in memory only once, and a reader of snapshots may keep a list and a length in
place of a joined text.

`Limits` are checked before any state is made for an index. Choices are kept in a dict, so an index of a billion allocates
nothing. A chunk that exceeds the size limit is added first, because it has been received, and then refused.

Nearly every chunk adds text to a choice that has begun, and nothing else; `add` handles such a chunk without a further
call. `extend` adds a `TextBatch` without making its chunks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from ..config import Limits
from ..errors import StreamError, StreamLimitError, choice_index_error
from ..types import ChatCompletion, ChatCompletionChunk, Choice, CompletionUsage, TextBatch, largest_usage
from ..types.messages import REPLY_FIELDS
from .choices import ChoiceState
from .pieces import kept_size, merge_all
from .position import everything

_DEFAULT_LIMITS = Limits()
# The size of text is counted in characters, which costs one call for each chunk. After this many characters, or earlier if
# the limit may be near, the bytes are counted. So counting is cheap, and the limit is exact.
_COUNT_AFTER = 1024 * 1024
_MAX_CHARACTER = 4  # maximum bytes of a character in UTF-8


class CompletionAssembler:
    """Assembles chunks to a completion.

    Args:
        n: Number of choices that were asked for; `complete` waits for all of them.
        limits: Limits on what a server may send.
        strict: Whether a completion is incomplete if ``[DONE]`` came without a finish_reason for every choice.

    Attributes:
        choices: The choices as far as they have been received, by index.
        usage: The usage that was reported; of several reports, the largest value of each count.
        seen: Whether any chunk was added.
        done: Whether ``[DONE]`` ended the stream.
    """

    # Slots save 2 % of the time of a chunk, together with those of `ChoiceState`.
    __slots__ = ("_count_at", "_extras", "_head_complete", "_limit", "_max_calls", "_max_choices", "_n", "_size", "_strict",
                 "choices", "created", "done", "id", "model", "seen", "service_tier", "system_fingerprint",
                 "usage")  # fmt: skip

    def __init__(self, *, n: int = 1, limits: Limits = _DEFAULT_LIMITS, strict: bool = False) -> None:
        self._n = n
        self._max_choices = max(n, limits.choices)
        self._max_calls = limits.tool_calls
        self._strict = strict
        self._size = 0  # bytes, except that text and reasoning since the last `_count` count in characters
        self._limit = sys.maxsize if limits.completion_bytes is None else limits.completion_bytes
        self._count_at = min(_COUNT_AFTER, self._limit // _MAX_CHARACTER)
        self._head_complete = False  # whether id, model and time are known
        self.choices: dict[int, ChoiceState] = {}
        self.usage: CompletionUsage | None = None
        self.id = ""
        self.model = ""
        self.created = 0
        self.system_fingerprint: str | None = None
        self.service_tier: str | None = None
        self._extras: dict[str, list[Any]] = {}  # pieces of the fields that belong to no choice
        self.seen = False
        self.done = False

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk.

        Args:
            chunk: The next chunk of the stream, which is neither kept nor changed.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more choices, calls or bytes than `Limits` allow.
        """
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
            or delta.images is not None
            or choice.finish_reason is not None
            or state.finish_reason is not None
            or chunk.retrieval is not None
            or chunk.functions is not None
            or chunk.guardrails is not None
            or (chunk.system_fingerprint is not None and self.system_fingerprint is None)
            or (chunk.service_tier is not None and self.service_tier is None)
            or not self._head_complete
        ):
            self._add_any(chunk)
            return
        # For the remaining fields, the rest of this method does the same as `ChoiceState.add`, and saves the call.
        size = self._size
        text = delta.content
        if text:
            state.content.append(text)
            size += len(text)
        elif text is not None and not state.content:
            state.content.append(text)
        text = delta.reasoning_content
        if text:
            state.reasoning.append(text)
            size += len(text)
        elif text is not None and not state.reasoning:
            state.reasoning.append(text)
        if delta.tool_calls is not None:
            size += (state.tool_calls or state.calls).add(delta.tool_calls, self._max_calls)
        if choice.logprobs is not None:
            size += state.add_logprobs(choice.logprobs)
        if chunk.usage is not None:
            self.usage = largest_usage(self.usage, chunk.usage)
        self._size = size
        if size > self._count_at:
            self._count()

    def extend(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Add several chunks, as `add` does for each.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more choices, calls or bytes than `Limits` allow.
        """
        if type(chunks) is TextBatch and chunks.texts:
            if chunks.choices is None:
                self._add_batch(chunks)
            else:
                self._add_batch_of_choices(chunks, chunks.choices)
            return
        add = self.add
        for chunk in chunks:
            add(chunk)

    def _add_any(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk of any content."""
        self._take_head(chunk)
        for choice in chunk.choices:
            state = self.choices.get(choice.index) or self._open(choice.index)
            self._size += state.add(choice.delta, self._max_calls)
            if choice.logprobs is not None:
                self._size += state.add_logprobs(choice.logprobs)
            if choice.finish_reason is not None:
                self._size += state.finish(choice.finish_reason)
        self._add_rest(chunk)
        if self._size > self._count_at:
            self._count()

    def _add_batch(self, batch: TextBatch) -> None:
        """Add chunks of one choice that differ in their text alone.

        The first chunk adds everything except the other texts: a `TextBatch` has no other field that accumulates.
        """
        first = batch[0]
        choice = first.choices[0]
        state = self.choices.get(choice.index)
        if state is None or state.finish_reason is not None or not all(batch.texts):
            self._add_each(batch)
            return
        if batch.field == "arguments":
            size = state.calls.extend((choice.delta.tool_calls or [])[0], batch.texts)
            if size:
                self._size += size
                choice.delta.tool_calls = None
                self.add(first)  # adds the other fields of the first chunk
            else:
                self._add_each(batch)
            return
        try:
            self.add(first)
        finally:
            # Even if the first chunk exceeds a limit, the other chunks have been received, so `completion` must have them.
            texts = batch.texts[1:]
            pieces = state.content if batch.field == "content" else state.reasoning
            pieces += texts
            self._size += sum(map(len, texts))
        if self._size > self._count_at:
            self._count()

    def _add_batch_of_choices(self, batch: TextBatch, choices: list[int]) -> None:
        """Add chunks that differ in text and choice.

        If all choices have begun and none has a finish_reason, every chunk adds its text and nothing else. Otherwise each
        chunk is added by itself.
        """
        first = batch[0]
        role = first.choices[0].delta.role
        pieces: dict[int, list[str]] = {}
        for index in set(choices):
            state = self.choices.get(index)
            if (
                state is None
                or state.finish_reason is not None
                or not self._head_complete
                or (role is not None and not state.role)
            ):
                self._add_each(batch)
                return
            pieces[index] = state.content if batch.field == "content" else state.reasoning
        texts = batch.texts
        if not all(texts):
            self._add_each(batch)
            return
        for index, text in zip(choices, texts, strict=True):
            pieces[index].append(text)
        self._size += sum(map(len, texts))
        self._add_rest(first)
        if self._size > self._count_at:
            self._count()

    def _add_each(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Add all chunks, then raise the first error: the chunks after a refused chunk have been received as well."""
        refused: StreamError | None = None
        for chunk in chunks:
            try:
                self.add(chunk)
            except StreamError as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _count(self) -> None:
        """Count the bytes of the text that was added since the last count.

        Raises:
            StreamLimitError: If the completion is larger than its limit.
        """
        self._size += sum(state.count_bytes() for state in self.choices.values())
        room = self._limit - self._size
        if room < 0:
            raise StreamLimitError(
                f"the completion has more than completion_bytes={self._limit} bytes; "
                "raise Limits(completion_bytes=...) to allow more"
            )
        self._count_at = self._size + min(_COUNT_AFTER, room // _MAX_CHARACTER)

    def end(self, *, done: bool) -> None:
        """Note that the stream has ended.

        Args:
            done: Whether ``[DONE]`` ended it.
        """
        self.done = done

    @property
    def complete(self) -> bool:
        """Whether the completion is complete.

        A completion is complete if ``[DONE]`` came after at least one choice, or if every choice that was asked for is
        finished.
        """
        return self.finished or (self.done and bool(self.choices) and not self._strict)

    @property
    def finished(self) -> bool:
        """Whether every choice that was asked for, and every choice that was received, is finished.

        A finish_reason finishes a choice. If content follows, the choice is unfinished until another finish_reason or
        ``[DONE]`` is received.
        """
        return (
            len(self.choices) >= self._n
            and self.seen
            and all(
                state.finished or (self.done and state.finish_reason is not None)
                for state in self.choices.values()
            )
        )

    @property
    def completion(self) -> ChatCompletion:
        """The completion as far as it has been received; a new object each time, without choices if none came."""
        return ChatCompletion(choices=self.to_choices(), **self._fields())

    @property
    def chunk(self) -> ChatCompletionChunk:
        """Everything that has been received, as one chunk; an assembler that adds the chunk has the same completion."""
        return ChatCompletionChunk(choices=[*map(everything, self.choices.values())], **self._fields())

    def to_choices(self) -> list[Choice]:
        """Return the choices as far as they have been received, by index."""
        return [self.choices[index].to_choice() for index in sorted(self.choices)]

    def _fields(self) -> dict[str, Any]:
        """Return the fields that belong to no choice."""
        return {
            "id": self.id,
            "created": self.created,
            "model": self.model,
            "usage": self.usage,
            "system_fingerprint": self.system_fingerprint,
            "service_tier": self.service_tier,
            **{name: merge_all(pieces) for name, pieces in self._extras.items()},
        }

    def _take_head(self, chunk: ChatCompletionChunk) -> None:
        """Take id, model and time, each from the first chunk that has it."""
        self.seen = True
        if not self.id:
            self.id = chunk.id
        if not self.model:
            self.model = chunk.model
        if not self.created:
            self.created = chunk.created
        self._head_complete = bool(self.id and self.model and self.created)

    def _open(self, index: int) -> ChoiceState:
        if not 0 <= index < self._max_choices:
            raise choice_index_error(index, self._max_choices)
        state = self.choices[index] = ChoiceState(index)
        return state

    def _add_rest(self, chunk: ChatCompletionChunk) -> None:
        """Add the fields that belong to no choice."""
        if chunk.usage is not None:
            self.usage = largest_usage(self.usage, chunk.usage)
        if self.system_fingerprint is None:
            self.system_fingerprint = chunk.system_fingerprint
        if self.service_tier is None:
            self.service_tier = chunk.service_tier
        for name in REPLY_FIELDS:
            piece = getattr(chunk, name)
            if piece is not None:
                self._extras.setdefault(name, []).append(piece)
                self._size += kept_size(piece)
