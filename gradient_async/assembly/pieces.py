"""Fields that are passed on unchanged and received in pieces: joined, and measured.

The pieces are kept as they were received, in lists that only grow, and joined when a completion is read. So the work for a
chunk depends on that chunk alone, and what came after some moment is a slice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from ..errors import StreamProtocolError

_MAX_DEPTH = 16  # levels of objects that are merged; below, the newer piece replaces the older
_EMPTY = (None, "")
# Of an entry of ``reasoning_details``, the fields that are received in pieces.
_DETAIL_TEXTS = ("text", "summary", "data")


def utf8_size(text: str) -> int:
    """Return the number of bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def json_size(value: Any) -> int:
    """Return the number of bytes of a value as JSON.

    Raises:
        StreamProtocolError: If the value is nested too deep.
    """
    try:
        return len(msgspec.json.encode(value))
    except RecursionError:
        pass
    raise StreamProtocolError("a field of a chunk is nested too deep")


def join_lists(pieces: Iterable[list[Any]]) -> list[Any]:
    """Return the items of all lists, in order."""
    return [item for piece in pieces for item in piece]


def join_details(pieces: Iterable[list[Any]]) -> list[Any]:
    """Join the entries of ``reasoning_details`` that have one type and index; entries without an index stay apart.

    Servers that want the entries back refuse them in fragments: the signature is that of the whole entry.
    """
    groups: list[list[Any]] = []
    group_of: dict[tuple[Any, Any], list[Any]] = {}
    for entry in join_lists(pieces):
        group: list[Any] | None = None
        if isinstance(entry, dict):
            fields = cast("dict[str, Any]", entry)
            key = (fields.get("type"), fields.get("index"))
            if isinstance(key[1], (int, str)) and isinstance(key[0], (str, type(None))):
                group = group_of.setdefault(key, [])
        if not group:
            group = [] if group is None else group
            groups.append(group)
        group.append(entry)
    return [group[0] if len(group) == 1 else join_objects(group, _DETAIL_TEXTS) for group in groups]


def join_objects(pieces: Iterable[Any], texts: Iterable[str]) -> Any:
    """Join the pieces of one object; if no piece is an object, return the last piece.

    Args:
        pieces: The pieces, in order.
        texts: The fields that are text in pieces; of every other field the last value that is not empty counts.
    """
    last: Any = None
    fields: dict[str, Any] = {}
    joined: dict[str, list[str]] = {name: [] for name in texts}
    for piece in pieces:
        if not isinstance(piece, dict):
            last = piece
            continue
        for name, value in cast("dict[str, Any]", piece).items():
            if isinstance(value, str) and name in joined:
                fields[name] = value  # the place of the field; the text follows below
                joined[name].append(value)
            elif value is not None and (name not in fields or value not in _EMPTY):
                fields[name] = value
    fields |= {name: "".join(values) for name, values in joined.items() if values}
    return fields or last


def merge_all(pieces: Iterable[Any]) -> Any:
    """Merge values: objects key by key; of any other values the last counts."""
    merged: Any = None
    for piece in pieces:
        merged = _merge(merged, piece, _MAX_DEPTH)
    return merged


def _merge(old: Any, new: Any, depth: int) -> Any:
    """Combine two pieces; the old one is a result of this function, and is changed."""
    if new is None:
        return old
    if not isinstance(new, dict) or depth == 0:
        return cast("Any", new)
    merged = cast("dict[str, Any]", old) if isinstance(old, dict) else {}
    for name, value in cast("dict[str, Any]", new).items():
        merged[name] = _merge(merged.get(name), value, depth - 1)
    return merged
