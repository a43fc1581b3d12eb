"""The tool calls of a choice, merged from their fragments by the tables in `rule`.

Nearly every fragment holds an index and the next piece of the arguments, and nothing else. By the tables such a piece is
appended, unless the arguments so far are a whole object. `ToolCalls.add` therefore appends it without reading the tables.

Some servers send a whole call again. Whether two calls are equal is known only when their arguments are whole, so
`ToolCalls.distinct` compares calls when a completion is read.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..errors import call_index_error
from ..types import ToolCallDelta
from .call import CallIndex, CallState, join_custom
from .json_text import MAX_PENDING, MAX_PIECE, JsonText, canonical
from .pieces import kept_size, utf8_size
from .rule import add_function, find, opens_another

# The bytes that a call counts in addition to its text: its state takes 1.5 kB of memory, and some microseconds whenever a
# completion is made.
_CALL_SIZE = 4096

# This many characters of arguments are compared as JSON whenever a completion is made; further characters are compared as text.
_MAX_COMPARED = 512 * 1024

Added: TypeAlias = tuple[CallState, str, list[str], int]


class ToolCalls:
    """The tool calls of a choice.

    Attributes:
        opened: The calls in the order in which they were opened.
        index: Finds the call of a fragment.
    """

    __slots__ = ("_added", "_choice", "_grown", "_next", "_numbers", "index", "opened")

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._next = 0  # greater than all indices and numbers
        self._numbers: set[int] = set()
        self._grown: list[JsonText] = []  # arguments with pieces whose bytes have not been counted
        self.opened: list[CallState] = []
        self.index = CallIndex()
        # What `added` returns. If the last chunk had one fragment, which only appended a piece, this is the call of the
        # fragment, and `added` makes the list if it is read.
        self._added: CallState | list[Added] = []

    def add(self, entries: list[ToolCallDelta], limit: int) -> int:
        """Add the fragments of a chunk; return the number of bytes that they add.

        A usual fragment counts its characters here. `count_bytes` returns by how much its bytes exceed them.

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
            # Without "}" in the last piece, the arguments so far are not a whole object: blank pieces after a whole object are
            # not appended, so its last piece has the "}". A repeated id, type or name changes nothing.
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
        self._added = added  # set now, because a later fragment may be refused
        size = 0
        for entry in entries:
            call, carried = self._call_for(entry, limit)
            # A server that sends many long arguments in one chunk sends each of them whole.
            call.arguments.hurried = size > MAX_PIECE
            text, more = self._add_to(call, entry)
            size += carried + more
            pieces = call.arguments.pieces
            # A later piece may replace `{}`, so events do not report `{}` before the end of the choice.
            added.append((call, "" if call.arguments.is_placeholder else text, pieces, len(pieces)))
        return size

    @property
    def added(self) -> list[Added]:
        """For each fragment of the last chunk: the call, the text, the list of pieces, and the length of the list.

        The text is what the fragment appended to the arguments. The list has this text as its last piece, and the length
        is the length after this piece. The text is empty for `{}`, because a later piece may replace `{}`.
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
        if call is None:
            return 0
        self._added = call
        return call.arguments.extend(texts)

    def _call_for(self, entry: ToolCallDelta, limit: int) -> tuple[CallState, int]:
        """Return the call that a fragment belongs to, and the size of a new call with what earlier fragments add to it.

        The call is opened if the fragment opens one.
        """
        found = find(self.index, entry)
        if found is None:
            return self._open(entry.index, limit), _CALL_SIZE
        if not opens_another(found, entry):
            return found, 0
        call = self._open(entry.index, limit)
        (id_, name), found.waiting = found.waiting, ("", "")
        if (entry.id or found.id) != found.id or (name and entry.function.name):
            return call, _CALL_SIZE
        # The id and the name that came after the whole arguments of the earlier call belong to this call.
        return call, _CALL_SIZE + self.index.identify(call, entry.id or id_) + call.append_name(name)

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
            size += kept_size(entry.custom)
        if entry.extra_content is not None:
            call.extra_content.append(entry.extra_content)
            size += kept_size(entry.extra_content)
        return text, size

    def count_bytes(self) -> int:
        """Return by how much the bytes of usual fragments exceed their characters, since the last call of this method."""
        size = 0
        for arguments in self._grown:
            arguments.read_pending()
            size += arguments.uncounted
            arguments.uncounted = 0
        self._grown.clear()
        return size

    def distinct(self) -> list[tuple[CallState, str]]:
        """Return the calls of a message, each with its id, ordered by index, then by the order of opening.

        Calls with the same name and the same arguments are one call if neither index nor id distinguishes them.
        """
        # `sorted` is stable: calls of one index stay in the order of opening.
        calls = sorted(self.opened, key=_index_of)
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
    """Compare calls of one index and name; return the ids of the calls that differ, by ordinal.

    Of equal calls, only the first is returned.
    """
    ids: dict[int, str] = {}
    alike: dict[tuple[str | bytes, bytes], dict[str, int]] = {}
    size = 0
    for call in calls:
        payload = msgspec.json.encode(join_custom(call.custom))
        arguments = str(call.arguments)
        size += len(arguments)
        by_id = alike.setdefault((canonical(arguments) if size <= _MAX_COMPARED else arguments, payload), {})
        # A call without an id is equal to any call with the same arguments, and takes the id of a later one.
        if call.id:
            same = by_id.get(call.id, by_id.pop("", call.ordinal))
        else:
            same = next(iter(by_id.values()), call.ordinal)
        ids[same] = ids.get(same) or call.id
        by_id[ids[same]] = same
    return ids
