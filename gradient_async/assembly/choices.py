"""One choice of an answer, and its tool calls, as far as they have come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..errors import call_index_error
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
from .plain import Pieces, copied, json_size, merge

__all__ = ["CallState", "ChoiceState"]

# What one entry of logprobs counts for in `Limits.completion_bytes`: about what its JSON takes at least.
_ENTRY = 16


class CallState:
    """One tool call as far as it has come.

    Attributes:
        index: The index it was opened with.
        id: First id that was not empty.
        name: First name that was not empty.
        type: First type that was not empty.
        arguments: Pieces of its JSON text.
        custom: Payload of a custom call; its input comes in pieces.
        extra_content: What some servers want back.
    """

    __slots__ = ("arguments", "custom", "extra_content", "id", "index", "name", "type")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.type = ""
        self.arguments: list[str] = []
        self.custom: Pieces | None = None
        self.extra_content: Any = None

    def finished(self) -> ToolCall:
        """Return it as a message has it."""
        return ToolCall(
            id=self.id,
            type=self.type or "function",
            function=Function(name=self.name, arguments="".join(self.arguments)),
            custom=None if self.custom is None else self.custom.joined(),
            extra_content=copied(self.extra_content),
        )


class ChoiceState:
    """One choice as far as it has come; pieces in lists that only grow.

    Attributes:
        index: Its index.
        role: First role that was not empty.
        content: Pieces of text; none if no string ever came.
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
        "_by_id",
        "_latest",
        "_next_index",
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
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.calls: list[CallState] = []
        self._latest: dict[int | None, CallState] = {}  # opened last, by index, and under None of all
        self._by_id: dict[tuple[int | None, str], CallState] = {}  # by index and id, and by id alone
        self._next_index = 0  # of a call that the server gives none
        self.finish_reason: str | None = None
        self.has_logprobs = False
        self.logprobs: list[TokenLogprob] | None = None
        self.refusal_logprobs: list[TokenLogprob] | None = None
        self.rest: dict[str, Any] = {}
        self.touched: Sequence[CallState] = ()

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
        latest = self._latest.get(index)
        if latest is not None:
            if not id_:
                return latest
            call = self._by_id.get((index, id_))
            if call is not None:
                return call
            if index is not None and not (entry.function.name or entry.custom):
                return latest
        if index is None:
            index = self._next_index
        if not 0 <= index < limit or len(self.calls) >= limit:
            raise call_index_error(self.index, index, limit)
        call = CallState(index)
        self.calls.append(call)
        self._latest[index] = self._latest[None] = call
        self._next_index = max(self._next_index, index + 1)
        return call

    def add_calls(self, entries: list[ToolCallDelta], limit: int) -> int:
        """Add fragments of tool calls; return how many characters of arguments they hold.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more calls than ``limit``.
        """
        # Nearly always it is one that continues a call: it says only its index, and goes on with the arguments.
        try:
            [entry] = entries
            call = self._latest[entry.index]
        except (ValueError, KeyError):
            pass
        else:
            function = entry.function
            arguments = function.arguments
            if (
                arguments is not None
                and entry.id is None
                and entry.type is None
                and function.name is None
                and entry.custom is None
                and entry.extra_content is None
            ):
                self.touched = (call,)
                call.arguments.append(arguments)
                return len(arguments)
        touched: list[CallState] = []
        self.touched = touched
        return sum(self._add_call(entry, limit, touched) for entry in entries)

    def _add_call(self, entry: ToolCallDelta, limit: int, touched: list[CallState]) -> int:
        """Add a fragment of a tool call, and its call to those touched; return how many characters it holds."""
        size = 0
        call = self.call_for(entry, limit)
        touched.append(call)
        function = entry.function
        if not call.id and entry.id:
            call.id = entry.id
            self._by_id[call.index, entry.id] = self._by_id[None, entry.id] = call
        if not call.name and function.name:
            call.name = function.name
        if not call.type and entry.type:
            call.type = entry.type
        if function.arguments is not None:
            call.arguments.append(function.arguments)
            size += len(function.arguments)
        if entry.custom is not None:
            if call.custom is None:
                call.custom = Pieces("input")
            size += call.custom.add(entry.custom)
        if entry.extra_content is not None:
            call.extra_content = merge(call.extra_content, entry.extra_content)
            size += json_size(entry.extra_content)
        return size

    def add_logprobs(self, logprobs: ChoiceLogprobs) -> int:
        """Add the entries of a chunk's own tokens; return about how many characters they are."""
        self.has_logprobs = True
        size = 0
        if logprobs.content is not None:
            if self.logprobs is None:
                self.logprobs = []
            self.logprobs += logprobs.content
            size += _size(logprobs.content)
        if logprobs.refusal is not None:
            if self.refusal_logprobs is None:
                self.refusal_logprobs = []
            self.refusal_logprobs += logprobs.refusal
            size += _size(logprobs.refusal)
        return size

    def add(self, delta: ChoiceDelta, limit: int) -> int:
        """Add what a chunk holds; return how many characters that is.

        Args:
            delta: What a chunk adds.
            limit: How many tool calls there may be.
        """
        size = 0
        if delta.content is not None:
            self.content.append(delta.content)
            size += len(delta.content)
        if delta.role and not self.role:
            self.role = delta.role
        if delta.reasoning_content is not None:
            self.reasoning.append(delta.reasoning_content)
            size += len(delta.reasoning_content)
        if delta.tool_calls is not None:
            size += self.add_calls(delta.tool_calls, limit)
        if delta.refusal is not None:
            self.refusal.append(delta.refusal)
            size += len(delta.refusal)
        if (
            delta.function_call is not None
            or delta.annotations is not None
            or delta.audio is not None
            or delta.reasoning_details is not None
            or delta.extra_content is not None
            or delta.content_parts is not None
        ):
            size += self.add_rest(delta)
        return size

    def add_rest(self, delta: ChoiceDelta) -> int:
        """Add what few servers send; return how many characters of text it holds."""
        size = 0
        rest = self.rest
        for name in ("annotations", "reasoning_details", "content_parts"):
            items: list[Any] | None = getattr(delta, name)
            if items is not None:
                rest.setdefault(name, []).extend(items)
                size += json_size(items)
        if delta.function_call is not None:
            # The first entry is the name, those after it are pieces of the arguments.
            pieces = rest.setdefault("function_call", [""])
            pieces[0] = pieces[0] or delta.function_call.name or ""
            pieces.append(delta.function_call.arguments or "")
            size += len(pieces[-1])
        if delta.audio is not None:
            size += rest.setdefault("audio", Pieces("data", "transcript")).add(delta.audio)
        if delta.extra_content is not None:
            rest["extra_content"] = merge(rest.get("extra_content"), delta.extra_content)
            size += json_size(delta.extra_content)
        return size

    def finished(self) -> Choice:
        """Return it as a completion has it; pieces joined, calls ordered by index, then by opening."""
        calls = [call.finished() for call in sorted(self.calls, key=_index_of)]
        function_call = cast("list[str] | None", self.rest.get("function_call"))
        audio = cast("Pieces | None", self.rest.get("audio"))
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
                audio=None if audio is None else audio.joined(),
                reasoning_details=_copy(self.rest.get("reasoning_details")),
                extra_content=copied(self.rest.get("extra_content")),
                content_parts=_copy(self.rest.get("content_parts")),
            ),
            finish_reason=self.finish_reason,
            logprobs=ChoiceLogprobs(content=_copy(self.logprobs), refusal=_copy(self.refusal_logprobs))
            if self.has_logprobs
            else None,
        )


def _size(entries: list[TokenLogprob]) -> int:
    count = len(entries)
    for entry in entries:
        count += len(entry.top_logprobs)
    return _ENTRY * count


def _join(pieces: list[str]) -> str | None:
    return "".join(pieces) if pieces else None


def _copy(items: list[Any] | None) -> list[Any] | None:
    return None if items is None else list(items)


def _index_of(call: CallState) -> int:
    return call.index
