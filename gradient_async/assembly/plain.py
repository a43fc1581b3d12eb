"""Plain data that comes in pieces: JSON that is passed on as it came."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ..errors import StreamProtocolError

__all__ = ["Pieces", "copied", "json_size", "merge"]

_DEEPEST = 16  # levels of objects that are merged; below them the newer piece replaces the older


def merge(old: Any, new: Any, depth: int = _DEEPEST) -> Any:
    """Combine two pieces: objects by key, anything else by the newer.

    Args:
        old: What came before, made by this function: it is changed, so that the work depends on the new
            piece alone.
        new: The next piece; never changed.
        depth: How many levels to go down.
    """
    if new is None:
        return old
    if not isinstance(new, dict) or depth == 0:
        return cast("Any", new)
    merged = cast("dict[str, Any]", old) if isinstance(old, dict) else {}
    for name, value in cast("dict[str, Any]", new).items():
        merged[name] = merge(merged.get(name), value, depth - 1)
    return merged


def copied(value: Any, depth: int = _DEEPEST) -> Any:
    """Copy what `merge` may still change."""
    if isinstance(value, dict) and depth:
        return {name: copied(item, depth - 1) for name, item in cast("dict[str, Any]", value).items()}
    return cast("Any", value)


def json_size(value: Any) -> int:
    """Return how many bytes of JSON a piece is.

    Raises:
        StreamProtocolError: If it is nested too deep.
    """
    try:
        return len(msgspec.json.encode(value))
    except RecursionError:
        pass
    raise StreamProtocolError("a field of a chunk is nested too deep")


class Pieces:
    """An object some of whose fields are strings that come in pieces.

    Args:
        *names: The fields to join; of any other the last counts.
    """

    __slots__ = ("_fields", "_names", "_other")

    def __init__(self, *names: str) -> None:
        self._names = names
        self._fields: dict[str, Any] = {}
        self._other: Any = None  # what came was no object

    def add(self, piece: Any) -> int:
        """Add a piece; return how many bytes of JSON it is."""
        if not isinstance(piece, dict):
            self._other = piece
            return json_size(piece)
        for name, value in cast("dict[str, Any]", piece).items():
            if name in self._names and isinstance(value, str):
                self._fields.setdefault(name, []).append(value)
            elif value is not None and name not in self._names:
                self._fields[name] = value
        return json_size(cast("Any", piece))

    def joined(self) -> Any:
        """Return the object."""
        if not self._fields:
            return self._other
        return {
            name: "".join(value) if name in self._names else value for name, value in self._fields.items()
        }
