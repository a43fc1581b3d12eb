"""One choice of an answer, and its tool calls, as far as they have come."""

from __future__ import annotations

from typing import Any, cast

from ..errors import StreamLimitError, StreamProtocolError
from ..types import (
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    Function,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)

__all__ = ["CallState", "ChoiceState", "merge"]


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

    def add_calls(self, entries: list[ToolCallDelta], limit: int) -> int:
        """Add fragments of tool calls; return how many characters of arguments they hold.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more calls than ``limit``.
        """
        size = 0
        self.touched = []
        for entry in entries:
            call = self.call_for(entry, limit)
            self.touched.append(call)
            function = entry.function
            if not call.id and entry.id:
                call.id = entry.id
            if not call.name and function.name:
                call.name = function.name
            if not call.type and entry.type:
                call.type = entry.type
            if function.arguments is not None:
                call.arguments.append(function.arguments)
                size += len(function.arguments)
            if entry.custom is not None:
                call.custom = merge(call.custom, entry.custom)
            if entry.extra_content is not None:
                call.extra_content = merge(call.extra_content, entry.extra_content)
        return size

    def add_logprobs(self, logprobs: ChoiceLogprobs) -> None:
        """Add the entries of a chunk's own tokens."""
        self.has_logprobs = True
        if logprobs.content is not None:
            if self.logprobs is None:
                self.logprobs = []
            self.logprobs += logprobs.content
        if logprobs.refusal is not None:
            if self.refusal_logprobs is None:
                self.refusal_logprobs = []
            self.refusal_logprobs += logprobs.refusal

    def add_rest(self, delta: ChoiceDelta) -> int:
        """Add what few servers send; return how many characters of text it holds."""
        size = 0
        rest = self.rest
        for name in ("annotations", "reasoning_details", "content_parts"):
            items: list[Any] | None = getattr(delta, name)
            if items is not None:
                rest.setdefault(name, []).extend(items)
        if delta.function_call is not None:
            # The first entry is the name, those after it are pieces of the arguments.
            pieces = rest.setdefault("function_call", [""])
            pieces[0] = pieces[0] or delta.function_call.name or ""
            pieces.append(delta.function_call.arguments or "")
            size += len(pieces[-1])
        if isinstance(delta.audio, dict):
            audio = rest.setdefault("audio", {})
            for name, value in cast("dict[str, Any]", delta.audio).items():
                if name in {"data", "transcript"} and isinstance(value, str):
                    audio.setdefault(name, []).append(value)
                    size += len(value)
                elif value is not None:
                    audio[name] = value
        if delta.extra_content is not None:
            rest["extra_content"] = merge(rest.get("extra_content"), delta.extra_content)
        return size

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


def merge(old: Any, new: Any) -> Any:
    """Combine two pieces of an object as it came: objects by key, anything else by the newer."""
    if isinstance(old, dict) and isinstance(new, dict):
        merged = dict(cast("dict[str, Any]", old))
        for name, value in cast("dict[str, Any]", new).items():
            merged[name] = merge(merged.get(name), value)
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
