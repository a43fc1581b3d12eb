"""Chunks to a completion: text, reasoning, refusal, tool calls, logprobs, usage.

Pure: no clock, no I/O. The work for a chunk depends on that chunk alone; pieces are joined when somebody
asks for `CompletionAssembler.completion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from .config import Limits
from .errors import StreamLimitError, StreamProtocolError
from .types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    CompletionUsage,
    Function,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)

__all__ = ["CallState", "ChoiceState", "CompletionAssembler"]

_DEFAULT_LIMITS = Limits()


class CallState:
    """One tool call as far as it has come.

    Attributes:
        index: The index it was opened with.
        id: First id that was not empty.
        name: First name that was not empty.
        type: First type that was not empty.
        arguments: Pieces of its JSON text.
        custom: Payload of a custom call.
        extra_content: What some servers want back.
    """

    __slots__ = ("arguments", "custom", "extra_content", "id", "index", "name", "type")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.type = ""
        self.arguments: list[str] = []
        self.custom: Any = None
        self.extra_content: Any = None

    def finished(self) -> ToolCall:
        """Return it as a message has it."""
        return ToolCall(
            id=self.id,
            type=self.type or "function",
            function=Function(name=self.name, arguments="".join(self.arguments)),
            custom=self.custom,
            extra_content=self.extra_content,
        )


class ChoiceState:
    """One choice as far as it has come; pieces in lists that only grow.

    Attributes:
        index: Its index.
        role: First role that was not empty.
        content: Pieces of text, or None if no string ever came.
        reasoning: Pieces of reasoning, likewise.
        refusal: Pieces of the refusal, likewise.
        calls: Tool calls in the order they were opened.
        finish_reason: The last one told.
        logprobs: Entries for the text, or None if no list ever came.
        refusal_logprobs: Entries for the refusal, likewise.
        touched: The calls that the last chunk's fragments went to, in the fragments' order.
        rest: Fields that few servers send, by name.
    """

    __slots__ = (
        "_by_index",
        "calls",
        "content",
        "finish_reason",
        "has_logprobs",
        "index",
        "logprobs",
        "reasoning",
        "refusal",
        "refusal_logprobs",
        "rest",
        "role",
        "touched",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.role = ""
        self.content: list[str] | None = None
        self.reasoning: list[str] | None = None
        self.refusal: list[str] | None = None
        self.calls: list[CallState] = []
        self._by_index: dict[int, list[CallState]] = {}
        self.finish_reason: str | None = None
        self.has_logprobs = False
        self.logprobs: list[TokenLogprob] | None = None
        self.refusal_logprobs: list[TokenLogprob] | None = None
        self.rest: dict[str, Any] = {}
        self.touched: list[CallState] = []

    def call_for(self, entry: ToolCallDelta, limit: int) -> CallState:
        """Return the call that a fragment belongs to; open one if it begins a new one.

        With an index: an unknown one opens a call; a known one goes to the call of that index with its
        id; a new id with a name opens another call there; anything else continues the latest there.
        Without: the call with its id; a new id opens a call; no id continues the call last opened.

        Raises:
            StreamProtocolError: If the index is negative.
            StreamLimitError: If there are too many calls, or the index is that of too many.
        """
        index, id_ = entry.index, entry.id
        # Candidates that a fragment may continue, the latest last.
        known = self.calls if index is None else self._by_index.get(index)
        if known:
            if not id_:
                return known[-1]
            for call in reversed(known):
                if call.id == id_:
                    return call
            if index is not None and not (entry.function.name or entry.custom):
                return known[-1]
        if index is None:
            index = 1 + max((call.index for call in self.calls), default=-1)
        if index < 0:
            raise StreamProtocolError(f"a tool call of choice {self.index} has the index {index}")
        if index >= limit or len(self.calls) >= limit:
            raise StreamLimitError(
                f"choice {self.index} has more than tool_calls={limit} tool calls (index {index}); "
                "raise Limits(tool_calls=...) if that is meant"
            )
        call = CallState(index)
        self.calls.append(call)
        self._by_index.setdefault(index, []).append(call)
        return call

    def finished(self) -> Choice:
        """Return it as a completion has it; pieces joined, calls ordered by index, then by opening."""
        calls = [call.finished() for call in sorted(self.calls, key=_index_of)]
        function_call = cast("list[str] | None", self.rest.get("function_call"))
        return Choice(
            index=self.index,
            message=ChatCompletionMessage(
                role=self.role or "assistant",
                content=_join(self.content),
                refusal=_join(self.refusal),
                reasoning_content=_join(self.reasoning),
                tool_calls=calls or None,
                function_call=None
                if function_call is None
                else Function(name=function_call[0], arguments="".join(function_call[1:])),
                annotations=_copy(self.rest.get("annotations")),
                audio=_audio(self.rest.get("audio")),
                reasoning_details=_copy(self.rest.get("reasoning_details")),
                extra_content=self.rest.get("extra_content"),
                content_parts=_copy(self.rest.get("content_parts")),
            ),
            finish_reason=self.finish_reason,
            logprobs=ChoiceLogprobs(content=_copy(self.logprobs), refusal=_copy(self.refusal_logprobs))
            if self.has_logprobs
            else None,
        )


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
        "_limits",
        "_max_choices",
        "_n",
        "_size",
        "_strict",
        "choices",
        "created",
        "done",
        "extras",
        "id",
        "model",
        "seen",
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
        self.extras: dict[str, Any] = {}
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
            if not self.id or not self.model:
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
                    self._add_calls(state, delta.tool_calls)
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
                    self._add_rest(state, delta)
                if choice.logprobs is not None:
                    _add_logprobs(state, choice.logprobs)
                if choice.finish_reason is not None:
                    state.finish_reason = choice.finish_reason
            if chunk.usage is not None:
                self.usage = chunk.usage
            if (
                chunk.system_fingerprint is not None
                or chunk.service_tier is not None
                or chunk.retrieval is not None
                or chunk.functions is not None
                or chunk.guardrails is not None
            ):
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
            **self.extras,
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

    def _add_calls(self, state: ChoiceState, entries: list[ToolCallDelta]) -> None:
        state.touched = []
        for entry in entries:
            call = state.call_for(entry, self._limits.tool_calls)
            state.touched.append(call)
            function = entry.function
            if not call.id and entry.id:
                call.id = entry.id
            if not call.name and function.name:
                call.name = function.name
            if not call.type and entry.type:
                call.type = entry.type
            if function.arguments is not None:
                call.arguments.append(function.arguments)
                self._size += len(function.arguments)
            if entry.custom is not None:
                call.custom = _merge(call.custom, entry.custom)
            if entry.extra_content is not None:
                call.extra_content = _merge(call.extra_content, entry.extra_content)

    def _add_rest(self, state: ChoiceState, delta: ChoiceDelta) -> None:
        rest = state.rest
        for name in ("annotations", "reasoning_details", "content_parts"):
            items: list[Any] | None = getattr(delta, name)
            if items is not None:
                rest.setdefault(name, []).extend(items)
        if delta.function_call is not None:
            # The first entry is the name, those after it are pieces of the arguments.
            pieces = rest.setdefault("function_call", [""])
            pieces[0] = pieces[0] or delta.function_call.name or ""
            pieces.append(delta.function_call.arguments or "")
            self._size += len(pieces[-1])
        if delta.audio is not None:
            self._add_audio(rest.setdefault("audio", {}), delta.audio)
        if delta.extra_content is not None:
            rest["extra_content"] = _merge(rest.get("extra_content"), delta.extra_content)

    def _add_audio(self, audio: dict[str, Any], piece: Any) -> None:
        if not isinstance(piece, dict):
            return
        for name, value in cast("dict[str, Any]", piece).items():
            if name in {"data", "transcript"} and isinstance(value, str):
                audio.setdefault(name, []).append(value)
                self._size += len(value)
            elif value is not None:
                audio[name] = value

    def _add_extras(self, chunk: ChatCompletionChunk) -> None:
        for name in ("system_fingerprint", "service_tier"):
            if self.extras.get(name) is None and getattr(chunk, name) is not None:
                self.extras[name] = getattr(chunk, name)
        for name in ("retrieval", "functions", "guardrails"):
            if getattr(chunk, name) is not None:
                self.extras[name] = _merge(self.extras.get(name), getattr(chunk, name))


def _add_logprobs(state: ChoiceState, logprobs: ChoiceLogprobs) -> None:
    state.has_logprobs = True
    if logprobs.content is not None:
        if state.logprobs is None:
            state.logprobs = []
        state.logprobs += logprobs.content
    if logprobs.refusal is not None:
        if state.refusal_logprobs is None:
            state.refusal_logprobs = []
        state.refusal_logprobs += logprobs.refusal


def _merge(old: Any, new: Any) -> Any:
    """Combine two pieces of an object as it came: objects by key, anything else by the newer."""
    if isinstance(old, dict) and isinstance(new, dict):
        merged = dict(cast("dict[str, Any]", old))
        for name, value in cast("dict[str, Any]", new).items():
            merged[name] = _merge(merged.get(name), value)
        return merged
    return cast("Any", old if new is None else new)


def _audio(audio: dict[str, Any] | None) -> dict[str, Any] | None:
    if audio is None:
        return None
    return {
        name: "".join(cast("list[str]", value)) if isinstance(value, list) else value
        for name, value in audio.items()
    }


def _join(pieces: list[str] | None) -> str | None:
    return None if pieces is None else "".join(pieces)


def _copy(items: list[Any] | None) -> list[Any] | None:
    return None if items is None else list(items)


def _index_of(call: CallState) -> int:
    return call.index
