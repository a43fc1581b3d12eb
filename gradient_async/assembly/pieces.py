"""Joins and measures fields that are received in pieces and passed on unchanged.

The pieces are kept as they were received, in lists that only grow, and joined when a completion is read. So the work for a
chunk depends on that chunk alone, and the pieces that were received after some moment are a slice of the list.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, cast

import msgspec

from ..errors import StreamProtocolError

_MAX_DEPTH = 16  # levels of objects that are merged; at deeper levels the newer value replaces the older
# The bytes that an object or an array, and each further item in it, count in addition to their JSON. With these numbers, all
# values that fit into the usual limit of 64 MiB are joined in about 50 ms. Items of objects count more, because merging objects
# takes longer than joining lists.
_CONTAINER_SIZE = 320
_ITEM_SIZE = 64
_MERGED_SIZE = 512
# The fields of an entry of ``reasoning_details`` that are received in pieces.
_DETAIL_TEXTS = frozenset({"text", "summary", "data"})


def utf8_size(text: str) -> int:
    """Return the number of bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def kept_size(value: Any) -> int:
    """Return about how many bytes of memory a value takes: its bytes as JSON, and more for each value in it.

    A limit on the bytes of JSON alone bounds neither memory nor time: ``{}`` takes 64 bytes of memory, and joining a million
    of them blocks the event loop for half a second. Brackets and commas inside strings count as well, except in a string
    by itself.

    Raises:
        StreamProtocolError: If the value is nested too deep.
    """
    if isinstance(value, str):
        return utf8_size(value)
    try:
        encoded = msgspec.json.encode(value)
    except RecursionError:
        pass
    else:
        is_list = isinstance(value, list)  # of a list, only the items are kept
        containers = encoded.count(b"{") + encoded.count(b"[") - is_list
        item_size = _ITEM_SIZE if is_list else _MERGED_SIZE
        return len(encoded) + _CONTAINER_SIZE * containers + item_size * encoded.count(b",")
    raise StreamProtocolError("a field of a chunk is nested too deep")


def join_lists(pieces: Iterable[list[Any]]) -> list[Any]:
    """Return the items of all lists, in order."""
    return [item for piece in pieces for item in piece]


def join_details(pieces: Iterable[list[Any]]) -> list[Any]:
    """Join the entries of ``reasoning_details`` that have the same type and index; others stay separate.

    Servers that require the entries in the next request refuse fragments: the signature belongs to the whole entry.
    """
    joined: list[Any] = []
    places: dict[tuple[Any, Any], int] = {}  # the place in `joined` of the first fragment of each entry
    # All fragments of each entry that has several. The key is the place of the entry's first fragment in `joined`.
    groups: dict[int, list[Any]] = {}
    for piece in cast("Iterable[list[dict[str, Any] | str]]", pieces):
        for entry in piece:
            if isinstance(entry, dict) and isinstance(index := entry.get("index"), (int, str)):
                kind = entry.get("type")
                if kind is None or isinstance(kind, str):
                    place = places.setdefault((kind, index), len(joined))
                    if place in groups:
                        groups[place].append(entry)
                        continue
                    if place < len(joined):
                        groups[place] = [joined[place], entry]
                        continue
            joined.append(entry)
    for place, group in groups.items():
        joined[place] = join_objects(group, _DETAIL_TEXTS)
    return joined


def join_objects(pieces: Iterable[Any], texts: Container[str]) -> Any:
    """Join the pieces of one object; if no piece is an object, return the last piece.

    Args:
        pieces: The pieces, in order.
        texts: The fields whose pieces of text are joined; of any other field, the last value that is not empty counts.
    """
    last: Any = None
    fields: dict[str, Any] = {}
    joined: dict[str, list[str]] = {}
    for piece in cast("Iterable[dict[str, Any] | str]", pieces):
        if not isinstance(piece, dict):
            last = piece
            continue
        for name, value in piece.items():
            if name in texts and isinstance(value, str):
                if name in joined:
                    joined[name].append(value)
                else:
                    joined[name] = [value]
                    fields[name] = value  # keeps the order of the fields; the joined text is set below
            elif value is not None and (value != "" or name not in fields):
                fields[name] = value
    for name, values in joined.items():
        fields[name] = "".join(values)
    return fields or last


def merge_all(pieces: Iterable[Any]) -> Any:
    """Merge objects key by key; of other values the last counts."""
    merged: Any = None
    for piece in pieces:
        merged = _merge(merged, piece, _MAX_DEPTH)
    return merged


def _merge(old: Any, new: Any, depth: int) -> Any:
    """Merge two values; ``old`` is a result of this function and is changed in place."""
    if new is None:
        return old
    if not isinstance(new, dict) or depth == 0:
        return cast("Any", new)
    merged = cast("dict[str, Any]", old) if isinstance(old, dict) else {}
    for name, value in cast("dict[str, Any]", new).items():
        merged[name] = _merge(merged.get(name), value, depth - 1)
    return merged
