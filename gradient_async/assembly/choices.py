"""One choice of a completion and its tool calls, as far as they have been received."""

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
from .pieces import ObjectPieces, copy_merged, json_size, merge

# What one entry of logprobs counts against `Limits.completion_bytes`: about its smallest size as JSON. For an exact size,
# each entry would have to be encoded again.
_ENTRY_SIZE = 16


class CallState:
    """One tool call, as far as it has been received.

    Attributes:
        index: The index in the fragment that opened the call.
        id: The first id that is not empty.
        name: The first name that is not empty.
        type: The first type that is not empty.
        arguments: Pieces of the JSON text.
        custom: Payload of a custom call, whose input is received in pieces.
        extra_content: Data that some servers require in the next request.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.type = ""
        self.arguments: list[str] = []
        self.custom: ObjectPieces | None = None
        self.extra_content: Any = None

    def to_tool_call(self) -> ToolCall:
        """Return the call as a message holds it."""
        return ToolCall(
            id=self.id,
            type=self.type or "function",
            function=Function(name=self.name, arguments="".join(self.arguments)),
            custom=None if self.custom is None else self.custom.join(),
            extra_content=copy_merged(self.extra_content),
        )


class ChoiceState:
    """One choice, as far as it has been received.

    Attributes:
        index: Index of the choice.
        role: The first role that is not empty.
        content: Pieces of the text; the list stays empty if no delta has any.
        reasoning: Pieces of the reasoning.
        refusal: Pieces of the refusal.
        calls: Tool calls in the order in which they were opened.
        finish_reason: The last finish_reason.
        logprobs: Entries for the text; None if no chunk has such a list.
        refusal_logprobs: Entries for the refusal; None if no chunk has such a list.
        touched: The calls that the fragments of the last chunk belong to, in the order of the fragments.
        rest: Fields that few servers send, by name.
    """

    __slots__ = ("_by_id", "_latest", "_next_index", "calls", "content", "finish_reason", "has_logprobs", "index", "logprobs",
                 "reasoning", "refusal", "refusal_logprobs", "rest", "role", "touched")  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.role = ""
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.calls: list[CallState] = []
        # Two dicts find the call of a fragment: an index of a billion must not allocate anything, and a fragment must take
        # constant time however many calls there are.
        # The call opened last for each index and, under None, the call opened last of all.
        self._latest: dict[int | None, CallState] = {}
        self._by_id: dict[
            tuple[int | None, str], CallState
        ] = {}  # each call by index and id, and by None and id
        self._next_index = 0  # the index of the next call that has none
        self.finish_reason: str | None = None
        self.has_logprobs = False
        self.logprobs: list[TokenLogprob] | None = None
        self.refusal_logprobs: list[TokenLogprob] | None = None
        self.rest: dict[str, Any] = {}
        self.touched: Sequence[CallState] = ()

    def call_for(self, entry: ToolCallDelta, limit: int) -> CallState:
        """Return the call that a fragment belongs to, after opening it if the fragment begins a new call.

        A fragment with an index: an unknown index opens a call. With a known index, a known id continues its call; a
        new id with a name opens another call; anything else continues the latest call of the index. A fragment
        without an index: a known id continues its call; a new id opens a call; without an id, the fragment continues
        the call opened last.

        The index alone does not tell calls apart: some servers send every parallel call with index 0. A new id alone is
        not the beginning of a call: only a beginning has a name.

        Raises:
            StreamProtocolError: If the index is negative.
            StreamLimitError: If there are more calls than the limit, or the index is beyond the limit.
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
        """Add fragments of tool calls; return the number of characters in them.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more calls than the limit.
        """
        # Nearly every chunk has one fragment, which holds an index and the next piece of the arguments. By the rules of
        # `call_for`, such a fragment continues the latest call of its index.
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
        # Set before the fragments are added: if a fragment is refused, the fragments before it have been added.
        self.touched = touched
        return sum(self._add_call(entry, limit, touched) for entry in entries)

    def _add_call(self, entry: ToolCallDelta, limit: int, touched: list[CallState]) -> int:
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
                call.custom = ObjectPieces("input")
            size += call.custom.add(entry.custom)
        if entry.extra_content is not None:
            call.extra_content = merge(call.extra_content, entry.extra_content)
            size += json_size(entry.extra_content)
        return size

    def add_logprobs(self, logprobs: ChoiceLogprobs) -> int:
        """Add the entries of a chunk; return their approximate size in characters."""
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
        """Add a delta; return the number of characters in it.

        Args:
            delta: The delta of this choice in the next chunk.
            limit: Maximum number of tool calls.
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
        """Add the fields that few servers send; return the number of characters in them."""
        size = 0
        rest = self.rest
        for name in ("annotations", "reasoning_details", "content_parts"):
            items: list[Any] | None = getattr(delta, name)
            if items is not None:
                rest.setdefault(name, []).extend(items)
                size += json_size(items)
        if delta.function_call is not None:
            # The name, then the pieces of the arguments.
            pieces = rest.setdefault("function_call", [""])
            pieces[0] = pieces[0] or delta.function_call.name or ""
            pieces.append(delta.function_call.arguments or "")
            size += len(pieces[-1])
        if delta.audio is not None:
            size += rest.setdefault("audio", ObjectPieces("data", "transcript")).add(delta.audio)
        if delta.extra_content is not None:
            rest["extra_content"] = merge(rest.get("extra_content"), delta.extra_content)
            size += json_size(delta.extra_content)
        return size

    def to_choice(self) -> Choice:
        """Return the choice as a completion holds it: pieces joined, calls ordered by index, then by opening."""
        # `sorted` is stable, and `calls` is in the order of opening.
        calls = [call.to_tool_call() for call in sorted(self.calls, key=_index_of)]
        function_call = cast("list[str] | None", self.rest.get("function_call"))
        audio = cast("ObjectPieces | None", self.rest.get("audio"))
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
                audio=None if audio is None else audio.join(),
                reasoning_details=_copy(self.rest.get("reasoning_details")),
                extra_content=copy_merged(self.rest.get("extra_content")),
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
    return _ENTRY_SIZE * count


def _join(pieces: list[str]) -> str | None:
    return "".join(pieces) if pieces else None


def _copy(items: list[Any] | None) -> list[Any] | None:
    return None if items is None else list(items)


def _index_of(call: CallState) -> int:
    return call.index
