"""The rule by which fragments of tool calls merge.

Servers disagree on everything that could distinguish calls: some leave out the index, some give every call the index 0, some
repeat the id in each fragment, some send no id, some send the name in pieces. One rule covers all of them. It is written down
once, in the four tables below:

1. `FIND` finds the call that a fragment belongs to. If it finds none, the fragment opens a call.
2. `OPEN` decides whether the fragment opens another call instead. If no row holds, it belongs to the call that was found.
3. `NAMES` says how the name of a fragment changes the name so far.
4. `ARGUMENTS` says how the arguments of a fragment change the arguments so far.

In `FIND`, `NAMES` and `ARGUMENTS` the first row that holds decides. ``docs/merging.md`` has the same rows with an example
for each, and a test checks the examples.

If a fragment adds nothing after a whole object, it may be the last fragment of this call or the first of the next call. So
its id and name are kept in `CallState.waiting` until the next fragment decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ..types import FunctionDelta, ToolCallDelta
from .call import CallIndex, CallState
from .json_text import JsonText, is_blank
from .pieces import utf8_size


class FindRow(msgspec.Struct, frozen=True):
    """A row of `FIND`.

    Attributes:
        when: The condition, in words.
        then: What happens, in words.
        holds: Whether the condition holds for a fragment.
        call: Returns the call that the fragment belongs to; None if the fragment opens a call.
    """

    when: str
    then: str
    holds: Callable[[CallIndex, ToolCallDelta], object]
    call: Callable[[CallIndex, ToolCallDelta], CallState | None]


class OpenRow(msgspec.Struct, frozen=True):
    """A row of `OPEN`.

    Attributes:
        when: The condition, in words.
        then: What happens, in words.
        holds: Whether the condition holds for a call and a fragment, so that the fragment opens another call.
    """

    when: str
    then: str
    holds: Callable[[CallState, ToolCallDelta], object]


class NameRow(msgspec.Struct, frozen=True):
    """A row of `NAMES`.

    Attributes:
        when: The condition, in words.
        then: What happens, in words.
        holds: Whether the condition holds for a call and a name.
        add: Adds the name to the call; returns the number of bytes that this adds.
    """

    when: str
    then: str
    holds: Callable[[CallState, str], object]
    add: Callable[[CallState, str], int]


class ArgumentsRow(msgspec.Struct, frozen=True):
    """A row of `ARGUMENTS`.

    Attributes:
        when: The condition, in words.
        then: What happens, in words.
        holds: Whether the condition holds for a call and the arguments of a fragment.
        add: Adds the arguments to the call; returns the text that was appended.
    """

    when: str
    then: str
    holds: Callable[[CallState, str], object]
    add: Callable[[CallState, str], str]


def _adds_nothing(call: CallState, text: str | None) -> bool:
    """Whether arguments after a whole object are missing, blank, or the same object again."""
    return not text or is_blank(text) or call.arguments.repeated_by(text)


def _is_new_id(call: CallState, entry: ToolCallDelta) -> bool:
    """Whether this fragment, or a waiting fragment before it, has another id than the call."""
    return (entry.id or call.waiting[0]) not in {"", call.id}


def _restates(call: CallState, name: str) -> bool:
    return name.startswith(call.name) or call.name.startswith(name)


def _always(_state: object, _fragment: object) -> bool:
    return True


def _no_call(_calls: CallIndex, _entry: ToolCallDelta) -> None:
    return None


FIND: Sequence[FindRow] = (
    FindRow(
        "an index that no call has",
        "opens a call",
        lambda calls, entry: entry.index is not None and entry.index not in calls.latest,
        _no_call,
    ),
    FindRow(
        "an index, and the id of a call of this index",
        "goes to the latest such call",
        lambda calls, entry: entry.index is not None and (entry.index, entry.id) in calls.by_id,
        lambda calls, entry: calls.by_id[entry.index, entry.id],
    ),
    FindRow(
        "an index",
        "goes to the latest call of this index",
        lambda _, entry: entry.index is not None,
        lambda calls, entry: calls.latest[entry.index],
    ),
    FindRow(
        "no index, and the id of a call",
        "goes to the latest such call",
        lambda calls, entry: (None, entry.id) in calls.by_id,
        lambda calls, entry: calls.by_id[None, entry.id],
    ),
    FindRow(
        "no index, and another id",
        "opens a call",
        lambda _, entry: entry.id,
        _no_call,
    ),
    FindRow(
        "neither index nor id",
        "goes to the latest call; if there is none, opens one",
        _always,
        lambda calls, _: calls.latest.get(None),
    ),
)
"""Which call a fragment belongs to; an empty id counts as no id."""

OPEN: Sequence[OpenRow] = (
    OpenRow(
        "an id that the call does not have, and a name",
        "opens another",
        lambda call, entry: _is_new_id(call, entry) and (entry.function.name or entry.custom),
    ),
    OpenRow(
        "an id that the call does not have, where the arguments so far are one whole JSON value; after an object, "
        "with arguments that are neither blank nor the same object again",
        "opens another",
        lambda call, entry: (
            _is_new_id(call, entry)
            and call.arguments.whole
            and not (call.arguments.whole_object and _adds_nothing(call, entry.function.arguments))
        ),
    ),
    OpenRow(
        "a name that neither begins with the name so far nor is its beginning, where there are arguments",
        "opens another",
        lambda call, entry: call.arguments.pieces and not _restates(call, entry.function.name or ""),
    ),
    OpenRow(
        "arguments that are neither blank nor the same object again, where the arguments so far are a whole object "
        "and a name came with the fragment, with the arguments so far, or between them",
        "opens another, unless the object is empty and no name came with the fragment or between them",
        lambda call, entry: (
            (entry.function.name or call.waiting[1] or (call.named and not call.arguments.empty_object))
            and call.arguments.whole_object
            and not _adds_nothing(call, entry.function.arguments)
        ),
    ),
)
"""Which fragments open another call although `FIND` has found a call."""


def _add_no_name(_call: CallState, _name: str) -> int:
    return 0


NAMES: Sequence[NameRow] = (
    NameRow(
        "none, or equal to the name so far",
        "adds nothing",
        # The lengths are compared first, because reading a name joins its pieces.
        lambda call, name: not name or (len(name) == call.name_length and name == call.name),
        _add_no_name,
    ),
    NameRow(
        "another, before any arguments",
        "is appended",
        lambda call, _: not call.arguments.pieces,
        lambda call, name: call.append_name(name),
    ),
    NameRow(
        "another, once arguments have begun",
        "restates the name; the longer counts",
        _always,
        lambda call, name: call.replace_name(name) if len(name) > call.name_length else 0,
    ),
)
"""How the name of a fragment changes the name of the call."""


def _add_nothing(_call: CallState, _text: str) -> str:
    return ""


def _append(call: CallState, text: str) -> str:
    call.arguments.add(text)
    call.waiting = ("", "")  # the arguments belong to this call, and so did the waiting id and name
    return text


def _replace(call: CallState, text: str) -> str:
    # The pieces go into a new list, because events may still refer to the old list.
    call.arguments = JsonText()
    call.named = False
    return _append(call, text)


ARGUMENTS: Sequence[ArgumentsRow] = (
    ArgumentsRow("none", "add nothing", lambda _, text: not text, _add_nothing),
    ArgumentsRow(
        "blank, or the same object again, after a whole object",
        "add nothing",
        lambda call, text: call.arguments.whole_object and _adds_nothing(call, text),
        _add_nothing,
    ),
    ArgumentsRow(
        "any other, after an object without fields",
        "replace it",
        lambda call, _: call.arguments.empty_object,
        _replace,
    ),
    ArgumentsRow("any other", "are appended", _always, _append),
)
"""How the arguments of a fragment change the arguments of the call."""


def find(calls: CallIndex, entry: ToolCallDelta) -> CallState | None:
    """Return the call that a fragment belongs to; None if the fragment opens a call."""
    return next(row for row in FIND if row.holds(calls, entry)).call(calls, entry)


def opens_another(call: CallState, entry: ToolCallDelta) -> bool:
    """Whether a fragment opens another call than the call that `find` returned."""
    return any(row.holds(call, entry) for row in OPEN)


def add_function(call: CallState, function: FunctionDelta, id_: str = "") -> tuple[str, int]:
    """Add name and arguments of a fragment; return the arguments that were appended, and the bytes that were added.

    Args:
        call: The call that the fragment goes to.
        function: The fragment.
        id_: The id of the fragment.
    """
    name, text = function.name or "", function.arguments or ""
    restated = name if call.name_length else ""  # the first name names this call, however late it is received
    size = next(row for row in NAMES if row.holds(call, name)).add(call, name)
    new_id = id_ not in {"", call.id}
    if (restated or new_id) and call.arguments.whole_object:
        call.waiting = (id_, restated)  # until `_append`, if the fragment does add something
        size += utf8_size(id_) if new_id else 0
    appended = next(row for row in ARGUMENTS if row.holds(call, text)).add(call, text)
    if name and not call.arguments.blank:
        call.named = True
    return appended, size + utf8_size(appended)
