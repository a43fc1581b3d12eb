"""The state of one tool call, and the index by which a fragment finds its call."""

from __future__ import annotations

from typing import Any

from ..types import Function, ToolCall
from .json_text import JsonText
from .pieces import join_objects, merge_all, utf8_size


class CallState:
    """One tool call, as far as it has been received.

    Attributes:
        index: The index in the fragment that opened the call; without one, the next free index.
        number: The index that events show; every call of a choice has a different one.
        ordinal: How many calls of the choice were opened before this call.
        indexed: Whether the server gave the index.
        id: The first id that is not empty.
        name_length: Characters of the name.
        type: The first type that is not empty.
        arguments: The arguments.
        named: Whether a name was received with the arguments so far, or after them.
        waiting: Id and name of a fragment that added nothing after a whole object; they may belong to the next call.
        custom: Pieces of the payload of a custom call.
        extra_content: Pieces of data that some servers require back in the next request.
    """

    __slots__ = ("_names", "arguments", "custom", "extra_content", "id", "index", "indexed", "name_length", "named",
                 "number", "ordinal", "type", "waiting")  # fmt: skip

    def __init__(self, index: int = 0, number: int = 0, ordinal: int = 0, *, indexed: bool = True) -> None:
        self.index = index
        self.number = number
        self.ordinal = ordinal
        self.indexed = indexed
        self.id = ""
        # The pieces of the name. They are joined when the name is read, so that another piece does not copy the earlier ones.
        self._names: list[str] = []
        self.name_length = 0
        self.type = ""
        self.arguments = JsonText()
        self.named = False
        self.waiting: tuple[str, str] = ("", "")
        self.custom: list[Any] = []
        self.extra_content: list[Any] = []

    @property
    def name(self) -> str:
        """The name as far as it has been received."""
        if len(self._names) > 1:
            self._names = ["".join(self._names)]
        return self._names[0] if self._names else ""

    def append_name(self, piece: str) -> int:
        """Append a piece to the name; return its size in bytes."""
        self._names.append(piece)
        self.name_length += len(piece)
        return utf8_size(piece)

    def replace_name(self, name: str) -> int:
        """Replace the name by a longer one; return by how many bytes the name grew."""
        shorter, self._names, self.name_length = self.name, [], 0
        return self.append_name(name) - utf8_size(shorter)

    def to_tool_call(self, id_: str) -> ToolCall:
        """Return the call in the form that a message holds, with this id."""
        return ToolCall(
            id=id_,
            type=self.type or "function",
            function=self.to_function(),
            custom=join_custom(self.custom),
            extra_content=merge_all(self.extra_content),
        )

    def to_function(self) -> Function:
        """Return name and arguments."""
        return Function(name=self.name, arguments=str(self.arguments))


def join_custom(pieces: list[Any]) -> Any:
    """Join the pieces of the payload of a custom call."""
    return join_objects(pieces, ("input",))


class CallIndex:
    """Finds the call that a fragment belongs to, by index and id.

    Attributes:
        latest: For each index, the call of this index that was opened last; for None, the call that was opened last.
        by_id: The same for each index and id; the key (None, id) has the latest call with this id, whatever its index.
    """

    # Both are dicts, for two reasons: an index of a billion must not allocate anything, and the time for a fragment must not
    # depend on the number of calls.
    __slots__ = ("by_id", "latest")

    def __init__(self) -> None:
        self.latest: dict[int | None, CallState] = {}
        self.by_id: dict[tuple[int | None, str | None], CallState] = {}

    def add(self, call: CallState) -> None:
        """Add a call that has just been opened."""
        self.latest[call.index] = self.latest[None] = call

    def identify(self, call: CallState, id_: str | None) -> int:
        """Give a call its id, unless it has one; return the number of bytes that this adds."""
        if not id_ or call.id:
            return 0
        call.id = id_
        for index in (call.index, None):
            known = self.by_id.setdefault((index, id_), call)
            if known.ordinal < call.ordinal:
                self.by_id[index, id_] = call
        return utf8_size(id_)
