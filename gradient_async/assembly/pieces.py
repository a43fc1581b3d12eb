"""Merges and measures JSON values that are received in pieces and passed on unchanged."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ..errors import StreamProtocolError

_MAX_DEPTH = 16  # levels of objects that are merged; at deeper levels the newer piece replaces the older


def merge(old: Any, new: Any, depth: int = _MAX_DEPTH) -> Any:
    """Combine two pieces: objects are merged key by key; of any other two values, the newer replaces the older.

    Args:
        old: The result of this function for the earlier pieces. It is changed in place, so that the work depends on the
            new piece alone.
        new: The next piece, which is not changed.
        depth: How many levels to merge.
    """
    if new is None:
        return old
    if not isinstance(new, dict) or depth == 0:
        return cast("Any", new)
    merged = cast("dict[str, Any]", old) if isinstance(old, dict) else {}
    for name, value in cast("dict[str, Any]", new).items():
        merged[name] = merge(merged.get(name), value, depth - 1)
    return merged


def copy_merged(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Copy the objects that `merge` may still change."""
    if isinstance(value, dict) and depth:
        return {name: copy_merged(item, depth - 1) for name, item in cast("dict[str, Any]", value).items()}
    return cast("Any", value)


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


class ObjectPieces:
    """An object that is received in pieces, some of whose fields are strings to be joined.

    Args:
        *names: The fields whose pieces are joined; every other field has its last value.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._fields: dict[str, Any] = {}
        self._other: Any = None  # the last piece that was not an object

    def add(self, piece: Any) -> int:
        """Add a piece; return its size as JSON in bytes."""
        if not isinstance(piece, dict):
            self._other = piece
            return json_size(piece)
        for name, value in cast("dict[str, Any]", piece).items():
            if name in self._names and isinstance(value, str):
                self._fields.setdefault(name, []).append(value)
            elif value is not None and name not in self._names:
                self._fields[name] = value
        return json_size(cast("Any", piece))

    def join(self) -> Any:
        """Return the object."""
        if not self._fields:
            return self._other
        return {
            name: "".join(value) if name in self._names else value for name, value in self._fields.items()
        }
