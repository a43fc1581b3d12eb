"""How deep the JSON of a server may be nested.

Values that are nested some hundred levels deep raise a `RecursionError` if they are compared, copied, pickled, printed or
encoded, but Python's own decoders accept about a thousand levels. Therefore the library has a much lower limit of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

MAX_DEPTH = 64
"""How many objects and arrays may be inside each other, the outermost one included."""

_ROUND = bytes.maketrans(b"[]{}", b"()()")
_SHORT = 16 * 1024  # bytes; of longer data, to count all brackets takes longer than to take them out
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))


def too_deep(data: bytes) -> bool:
    """Whether JSON is nested deeper than `MAX_DEPTH`, without decoding it; of JSON that is cut or wrong, a guess."""
    if len(data) <= _SHORT and data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    # Passes of C code remove everything except brackets. Escapes are removed first; then every quotation mark begins or ends
    # a string. Of a string without brackets, two adjacent quotation marks remain, and are removed.
    if b"\\" in data:
        data = data.replace(rb"\\", b"").replace(rb"\"", b"")
    quotes = data.translate(_ROUND, _OTHERS).replace(b'""', b"")
    brackets = b"".join(quotes.split(b'"')[::2])
    for _ in range(MAX_DEPTH):
        outer = brackets.replace(b"()", b"")  # without the innermost pairs
        if len(outer) == len(brackets):  # what is left is not balanced
            return outer.count(b"(") > MAX_DEPTH
        brackets = outer
    return bool(brackets)


def check_depth(data: bytes) -> None:
    """Refuse JSON that is nested deeper than `MAX_DEPTH`.

    Raises:
        ValueError: If the JSON is nested deeper.
    """
    if too_deep(data):
        raise ValueError(f"nested too deep, more than {MAX_DEPTH} levels")


def decode_json(data: bytes | str) -> Any:
    """Decode JSON to plain data.

    Raises:
        ValueError: If the data is not JSON, or is nested deeper than `MAX_DEPTH`.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    check_depth(data)
    return msgspec.json.decode(data)


def is_deeper(value: Any, max_depth: int = MAX_DEPTH) -> bool:
    """Whether plain data is nested deeper than ``max_depth``."""
    # Level by level, because a function that calls itself for each level could raise a `RecursionError` itself.
    level = _containers([value])
    for _ in range(max_depth):
        if not level:
            return False
        level = _containers(
            item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)
        )
    return bool(level)


def _containers(values: Iterable[Any]) -> list[dict[str, Any] | list[Any]]:
    return [value for value in values if type(value) is list or type(value) is dict]


class _Bounded(type):
    """The type of `AnyJSON`.

    msgspec decodes a field of an unknown class like a field of type Any, and then calls `isinstance`. So every decoder of a
    Struct makes the check, and the check costs nothing if the field is missing.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        return not is_deeper(instance, MAX_DEPTH - 1)  # a field has at least one object around it


if TYPE_CHECKING:
    AnyJSON: TypeAlias = Any
else:

    class AnyJSON(metaclass=_Bounded):
        """Plain data that is not nested too deep: the type of a field that is passed on unchanged."""
