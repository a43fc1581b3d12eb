"""The tool calls of a choice, merged from their fragments by the tables in `rule`.

Nearly every fragment holds an index and the next piece of the arguments, and nothing else. Such a piece is appended, unless
the arguments so far are a whole object, so `ToolCalls.add` appends it without the tables.

Calls that are alike may be one call, restated, but their arguments come in pieces: `ToolCalls.distinct` compares them when a
completion is read.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..errors import call_index_error
from ..types import ToolCallDelta
from .call import CallIndex, CallState, join_custom
from .json_text import MAX_PENDING, JsonText, canonical
from .pieces import json_size, utf8_size
from .rule import add_function, find, opens_another

Added: TypeAlias = tuple[CallState, str, list[str], int]


class ToolCalls:
    """The tool calls of a choice.

    Attributes:
        opened: The calls in the order in which they were opened.
        index: Where fragments find their calls.
    """

    __slots__ = ("_added", "_choice", "_grown", "_next", "_numbers", "index", "opened")

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._next = 0  # greater than all indices and numbers
        self._numbers: set[int] = set()
        self._grown: list[JsonText] = []  # those with pieces whose bytes have not been counted
        self.opened: list[CallState] = []
        self.index = CallIndex()
        # The call of the last chunk, if its only fragment appended a piece and did nothing else; otherwise see `added`.
        self._added: CallState | list[Added] = []

    def add(self, entries: list[ToolCallDelta], limit: int) -> int:
        """Add the fragments of a chunk; return the number of bytes that they add, of usual fragments of characters.

        `count_bytes` has the bytes of usual fragments.

        Args:
            entries: The fragments.
            limit: Maximum number of calls.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more calls than the limit.
        """
        try:
            [entry] = entries
            call = self.index.latest[entry.index]
        except (ValueError, KeyError):
            pass
        else:
            function = entry.function
            text = function.arguments
            arguments = call.arguments
            pieces = arguments.pieces
            # The last piece of a whole object closes the object: blank pieces behind it are not appended. Some servers
            # repeat id, type and name, which adds nothing here.
            if (
                text
                and pieces
                and ("}" not in pieces[-1] or arguments.open)
                and (not entry.id or entry.id == call.id)
                and (not entry.type or call.type)
                and (not function.name or function.name == call.name)
                and entry.custom is None
                and entry.extra_content is None
            ):
                if not arguments.pending:
                    self._grown.append(arguments)
                size = len(text)
                arguments.pending += size
                pieces.append(text)
                self._added = call
                if function.name and not call.named:
                    call.named = not arguments.blank
                if arguments.pending > MAX_PENDING:
                    arguments.read_pending()
                return size
        added: list[Added] = []
        self._added = added  # also if a fragment is refused: those before it have been added
        size = 0
        for entry in entries:
            call, carried = self._call_for(entry, limit)
            text, more = self._add_to(call, entry)
            size += carried + more
            pieces = call.arguments.pieces
            # Another piece may replace `{}`: nobody is told of it until the end.
            added.append((call, "" if call.arguments.is_placeholder else text, pieces, len(pieces)))
        return size

    @property
    def added(self) -> list[Added]:
        """For each fragment of the last chunk, its call, and what it appended to the arguments.

        That is the text, the list that the text went to, and the length of the list then. A `{}` that another piece may
        replace is not told.
        """
        if isinstance(self._added, list):
            return self._added
        pieces = self._added.arguments.pieces
        return [(self._added, pieces[-1], pieces, len(pieces))]

    def extend(self, entry: ToolCallDelta, texts: list[str]) -> int:
        """Add fragments that hold nothing but an index and arguments, if they all belong to the arguments of one call.

        Args:
            entry: One of the fragments.
            texts: The arguments of each fragment.

        Returns:
            The number of bytes that were added; 0 if the fragments have to be added one by one.
        """
        call = self.index.latest.get(entry.index)
        size = 0 if call is None else call.arguments.extend(texts)
        if call is not None and size:
            self._added = call
        return size

    def _call_for(self, entry: ToolCallDelta, limit: int) -> tuple[CallState, int]:
        """Return the call that a fragment belongs to, after opening it if the fragment opens one.

        Beside it, the number of bytes that the call has from the fragments before.
        """
        found = find(self.index, entry)
        if found is None:
            return self._open(entry.index, limit), 0
        if not opens_another(found, entry):
            return found, 0
        call = self._open(entry.index, limit)
        (id_, name), found.waiting = found.waiting, ("", "")
        if (entry.id or found.id) != found.id or (name and entry.function.name):
            return call, 0
        # What came since the arguments were whole was the beginning of this call.
        return call, self.index.identify(call, entry.id or id_) + call.append_name(name)

    def _open(self, index: int | None, limit: int) -> CallState:
        indexed = index is not None
        if index is None:
            index = self._next
        if not 0 <= index < limit or len(self.opened) >= limit:
            raise call_index_error(self._choice, index, limit)
        number = index if index not in self._numbers else self._next
        call = CallState(index, number, len(self.opened), indexed=indexed)
        self._numbers.add(number)
        self._next = max(self._next, index + 1, number + 1)
        self.opened.append(call)
        self.index.add(call)
        return call

    def _add_to(self, call: CallState, entry: ToolCallDelta) -> tuple[str, int]:
        text, size = add_function(call, entry.function, entry.id or "")
        size += self.index.identify(call, entry.id)
        if entry.type and not call.type:
            call.type = entry.type
            size += utf8_size(entry.type)
        if entry.custom is not None:
            call.custom.append(entry.custom)
            size += json_size(entry.custom)
        if entry.extra_content is not None:
            call.extra_content.append(entry.extra_content)
            size += json_size(entry.extra_content)
        return text, size

    def count_bytes(self) -> int:
        """Return by how much the bytes of arguments exceed the characters that `add` returned, since the last call."""
        size = 0
        for arguments in self._grown:
            arguments.read_pending()
            size += arguments.uncounted
            arguments.uncounted = 0
        self._grown.clear()
        return size

    def distinct(self) -> list[tuple[CallState, str]]:
        """Return the calls as a message holds them, each with its id, ordered by index, then by opening.

        Calls of one name and the same arguments, which neither index nor id tells apart, are one call.
        """
        calls = sorted(self.opened, key=_index_of)  # stable: calls of one index stay in the order of opening
        named: dict[tuple[int | None, str], list[CallState]] = {}
        for call in calls:
            named.setdefault((call.index if call.indexed else None, call.name), []).append(call)
        ids: dict[int, str] = {}
        for group in named.values():
            ids |= _ids_of_different(group) if len(group) > 1 else {group[0].ordinal: group[0].id}
        return [(call, ids[call.ordinal]) for call in calls if call.ordinal in ids]


def _index_of(call: CallState) -> int:
    return call.index


def _ids_of_different(calls: list[CallState]) -> dict[int, str]:
    """Return the ids of the calls that differ, of several with one name, by ordinal; the first of those alike stays."""
    ids: dict[int, str] = {}
    alike: dict[tuple[str | bytes, bytes], dict[str, int]] = {}
    for call in calls:
        payload = msgspec.json.encode(join_custom(call.custom))
        by_id = alike.setdefault((canonical(str(call.arguments)), payload), {})
        # A call without an id may be any of the others.
        same = by_id.get(call.id, by_id.get(""))
        if same is None and not call.id:
            same = next(iter(by_id.values()), None)
        if same is None:
            same = call.ordinal
            ids[same] = ""
        if call.id and not ids[same]:
            by_id.pop("", None)
            ids[same] = call.id
        if call.id or not ids[same]:
            by_id[call.id] = same
    return ids
