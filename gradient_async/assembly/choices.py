"""The state of one choice of a completion: everything that was received for it so far."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from ..types import ChatCompletionMessage, Choice, ChoiceDelta, ChoiceLogprobs, TokenLogprob
from ..types.messages import ANSWER_FIELDS
from .call import CallState
from .calls import ToolCalls
from .pieces import join_details, join_lists, join_objects, kept_size, merge_all, utf8_size
from .rule import add_function

# The bytes that a token with its log probability, and each of its alternatives, count against `Limits.completion_bytes`: about
# the memory that the smallest of them takes.
_TOKEN_SIZE = 192
_ALTERNATIVE_SIZE = 48
_MAX_LABEL = 64  # a role or finish_reason of at most this many characters counts 0 bytes

JOIN: dict[str, Callable[[list[Any]], Any]] = {
    "annotations": join_lists,
    "audio": partial(join_objects, texts=frozenset({"data", "transcript"})),
    "content_parts": join_lists,
    "extra_content": merge_all,
    "images": join_lists,
    "reasoning_details": join_details,
}
"""The fields of a message that few servers send, and how their pieces are joined."""
# One call in C reads all of these fields of a delta. Nearly always all are None.
_rest_of = attrgetter(*JOIN)
_NO_REST = (None,) * len(JOIN)
# If one of these fields comes after a finish_reason, the choice continues, as it does with text. All parts of the answer are
# among them, with two exceptions: the text of `content_parts` is also in `content`, and details of the reasoning do not show
# that an answer goes on.
_CONTINUE = frozenset(ANSWER_FIELDS) - {"content_parts", "reasoning_details"}


class ChoiceState:
    """One choice, as far as it has been received.

    Attributes:
        index: Index of the choice.
        role: The first role that is not empty.
        content: Pieces of the text; the list is empty if no delta had a text.
        tool_calls: The tool calls; None if nothing has used `calls`. Most choices have no calls.
        reasoning: Pieces of the reasoning.
        refusal: Pieces of the refusal.
        function_call: The older form of a single call, or None.
        finish_reason: The last finish_reason.
        finished: Whether a finish_reason was received, and no content after it.
        logprobs: Entries for the text; None if no chunk has such a list.
        refusal_logprobs: Entries for the refusal; None if no chunk has such a list.
        rest: Pieces of the fields in `JOIN`, by name.
    """

    __slots__ = ("_content_counted", "_reasoning_counted", "content", "finish_reason", "finished", "function_call",
                 "has_logprobs", "index", "logprobs", "reasoning", "refusal", "refusal_logprobs", "rest",
                 "role", "tool_calls")  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.role = ""
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        # Number of pieces whose bytes `count_bytes` has counted.
        self._content_counted = 0
        self._reasoning_counted = 0
        self.tool_calls: ToolCalls | None = None
        self.function_call: CallState | None = None
        self.finish_reason: str | None = None
        self.finished = False
        self.has_logprobs = False
        self.logprobs: list[TokenLogprob] | None = None
        self.refusal_logprobs: list[TokenLogprob] | None = None
        self.rest: dict[str, list[Any]] = {}

    @property
    def calls(self) -> ToolCalls:
        """The tool calls, made at the first use."""
        if self.tool_calls is None:
            self.tool_calls = ToolCalls(self.index)
        return self.tool_calls

    def add(self, delta: ChoiceDelta, limit: int) -> int:
        """Add a delta; return its size in bytes.

        Text, reasoning and most arguments count their characters here. `count_bytes` returns by how much their bytes
        exceed them.

        Args:
            delta: The delta of this choice in the next chunk.
            limit: Maximum number of tool calls.
        """
        size = _append(self.content, delta.content) + _append(self.reasoning, delta.reasoning_content)
        if _append(self.refusal, delta.refusal):
            size += utf8_size(delta.refusal or "")
        if delta.tool_calls is not None:
            size += self.calls.add(delta.tool_calls, limit)
        if delta.function_call is not None:
            if self.function_call is None:
                self.function_call = CallState()
            size += add_function(self.function_call, delta.function_call)[1]
        if size:
            self.finished = False
        if delta.role and not self.role:
            self.role = delta.role
            size += _label_size(delta.role)
        rest = _rest_of(delta)
        for name, value in zip(JOIN, rest, strict=True) if rest != _NO_REST else ():
            if value is not None:
                if value and name in _CONTINUE:
                    self.finished = False
                self.rest.setdefault(name, []).append(value)
                size += kept_size(value)
        return size

    def finish(self, reason: str) -> int:
        """Note a finish_reason; return its size. Content after it makes the choice unfinished again."""
        self.finish_reason = reason
        self.finished = True
        return _label_size(reason)

    def add_logprobs(self, logprobs: ChoiceLogprobs) -> int:
        """Add the entries of a chunk; return their approximate size in bytes."""
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

    def count_bytes(self) -> int:
        """Return by how much the bytes of texts exceed their characters, since the last call of this method."""
        text, reasoning = self.content[self._content_counted :], self.reasoning[self._reasoning_counted :]
        self._content_counted, self._reasoning_counted = len(self.content), len(self.reasoning)
        joined = "".join(text + reasoning)
        calls = 0 if self.tool_calls is None else self.tool_calls.count_bytes()
        return utf8_size(joined) - len(joined) + calls

    def to_choice(self) -> Choice:
        """Return the choice in the form that a completion holds, with its pieces joined."""
        call = self.function_call
        calls = () if self.tool_calls is None else self.tool_calls.distinct()
        return Choice(
            index=self.index,
            message=ChatCompletionMessage(
                role=self.role or "assistant",
                content=_join(self.content),
                refusal=_join(self.refusal),
                reasoning_content=_join(self.reasoning),
                tool_calls=[call.to_tool_call(id_) for call, id_ in calls] or None,
                function_call=None if call is None else call.to_function(),
                **{name: JOIN[name](pieces) for name, pieces in self.rest.items()},
            ),
            finish_reason=self.finish_reason,
            logprobs=self.to_logprobs(),
        )

    def to_logprobs(self) -> ChoiceLogprobs | None:
        """Return the log probabilities; None if none were received."""
        if not self.has_logprobs:
            return None
        return ChoiceLogprobs(content=_copy(self.logprobs), refusal=_copy(self.refusal_logprobs))


def _append(pieces: list[str], piece: str | None) -> int:
    """Append a piece; return its number of characters.

    An empty piece is appended only as the first piece, because an empty text differs from no text. Further empty pieces
    would use memory that no limit counts.
    """
    if piece is None or (not piece and pieces):
        return 0
    pieces.append(piece)
    return len(piece)


def _label_size(label: str) -> int:
    """Return the size of a role or finish_reason: 0 if it is as short as the usual ones."""
    return 0 if len(label) <= _MAX_LABEL else utf8_size(label)


def _size(entries: list[TokenLogprob]) -> int:
    alternatives = 0
    for entry in entries:
        alternatives += len(entry.top_logprobs)
    return _TOKEN_SIZE * len(entries) + _ALTERNATIVE_SIZE * alternatives


def _join(pieces: list[str]) -> str | None:
    return "".join(pieces) if pieces else None


def _copy(items: list[TokenLogprob] | None) -> list[TokenLogprob] | None:
    return None if items is None else list(items)
