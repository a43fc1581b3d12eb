"""How deep the JSON of a server may be nested, and how many values it may have.

Values that are nested some hundred levels deep raise a `RecursionError` if they are compared, copied, pickled, printed or
encoded, but Python's own decoders accept about a thousand levels. Therefore the library has a much lower limit of its own.

A limit in bytes bounds neither memory nor time: the two bytes ``[]`` become a list of 56 bytes, and a reply of 16 MiB of them
would block the event loop for seconds. The number of values bounds both. Depth and values are counted before anything is
decoded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ..partial import PartialJSON

MAX_DEPTH = 64
"""How many objects and arrays may be inside each other, the outermost one included."""
UNLIMITED = sys.maxsize
MAX_VALUES = 100_000
"""How many values JSON may have by default: one for each comma, `CONTAINER` for each object and array, one for `ESCAPES` escapes."""
CONTAINER = 10
"""How many values an object or an array counts as, because it takes so many times the time and memory of a number."""
ESCAPES = 10
"""How many escapes in strings count as a value: to decode a text of escapes takes many times as long as plain text."""

_ROUND = bytes.maketrans(b"[]{}", b"()()")
_OTHERS = bytes(set(range(256)) - set(b'[]{},"'))
_SHORT = 64 * 1024  # bytes; of longer data, the brackets of the first slice are counted first
# The number of bytes that are examined together. A slice of this size stays in the CPU's cache, and data with too many values
# is refused after its first slices.
_SLICE = 256 * 1024
_TWO_DIGITS = re.compile(rb"[0-9]{2}")


class TooManyValuesError(ValueError):
    """JSON has more values than a limit allows."""

    def __init__(self, max_values: int) -> None:
        super().__init__(
            f"more than values={max_values} JSON values, where an object or an array counts as {CONTAINER}, "
            f"and {ESCAPES} escapes as one; "
            "raise Limits(values=...) to allow more"
        )


def max_light(max_values: int) -> int:
    """Return the length in bytes up to which JSON cannot have more values. The most values per byte are in ``[]``."""
    return 2 * max_values // CONTAINER


def may_be_heavy(data: bytes, max_values: int) -> bool:
    """Whether JSON may have more values: a fast guess that also counts brackets and commas inside strings."""
    left = max_values - data.count(b"\\") // ESCAPES
    for start in range(0, len(data), _SLICE):
        end = start + _SLICE
        left -= CONTAINER * (data.count(b"[", start, end) + data.count(b"{", start, end))
        left -= data.count(b",", start, end)
        if left < 0:  # the rest need not be counted
            return True
    return False


def has_long_number(data: bytes) -> bool:
    """Whether JSON has a run of 96 or more digits, in a string or outside; a run of 33 to 95 digits may count as well.

    The time that Python takes to read an integer grows with the square of the number of its digits.
    """
    # Only every 32nd byte is searched. A run of 96 digits has three of these bytes, so that two of them match as a pair.
    places = _TWO_DIGITS.finditer(data[::32])
    return any(data[32 * place.start() : 32 * place.end() - 31].isdigit() for place in places)


def check_json(data: bytes, max_values: int = UNLIMITED) -> None:
    """Refuse JSON that is nested deeper than `MAX_DEPTH` or has too many values, without decoding it.

    Args:
        data: The JSON. If it is cut or invalid, depth and values are a guess.
        max_values: How many values it may have: see `MAX_VALUES`.

    Raises:
        TooManyValuesError: If there are more values.
        ValueError: If the JSON is nested deeper.
    """
    escapes = data.count(b"\\") // ESCAPES
    if (
        (len(data) <= _SHORT or _has_few_brackets(data[:_SLICE]))
        and _has_few_brackets(data)
        and (
            len(data) <= max_light(max_values)
            or CONTAINER * MAX_DEPTH + data.count(b",") + escapes <= max_values
        )
    ):
        return
    left = max_values - escapes
    brackets: list[bytes] = []
    for marks in _marks(data):
        left -= CONTAINER * marks.count(b"(") + marks.count(b",")
        brackets.append(marks.replace(b",", b""))
        if left < 0:
            break
    if _is_deep(b"".join(brackets)):
        raise ValueError(f"nested too deep, more than {MAX_DEPTH} levels")
    if left < 0:
        raise TooManyValuesError(max_values)


def _has_few_brackets(data: bytes) -> bool:
    # The difference in length is the number of brackets. `count` would look at every byte, but `replace` jumps from one bracket
    # to the next.
    rest = data.replace(b"[", b"", MAX_DEPTH + 1).replace(b"{", b"", MAX_DEPTH + 1)
    return len(data) - len(rest) <= MAX_DEPTH


def _marks(data: bytes) -> Iterator[bytes]:
    """Yield the brackets and commas of JSON outside strings, slice by slice; all brackets become round."""
    in_string = False
    start = 0
    while start < len(data):
        end = start + _SLICE
        piece = data[start:end]
        # Calls of C code remove everything except brackets, commas and quotation marks. Escapes are removed first; then every
        # quotation mark begins or ends a string. A string without brackets and commas leaves two adjacent quotation marks,
        # which are removed.
        if b"\\" in piece:
            # A slice must not end between a backslash and the character that it escapes.
            cut = (len(piece) - len(piece.rstrip(b"\\"))) % 2 if end < len(data) else 0
            end -= cut
            piece = piece[: len(piece) - cut].replace(rb"\\", b"").replace(rb"\"", b"")
        marks = piece.translate(_ROUND, _OTHERS)
        if in_string:
            marks = b'"' + marks
        in_string = marks.count(b'"') % 2 == 1
        yield b"".join(marks.replace(b'""', b"").split(b'"')[::2])
        start = end


def _is_deep(brackets: bytes) -> bool:
    """Whether brackets are nested deeper than `MAX_DEPTH`."""
    for _ in range(MAX_DEPTH):
        outer = brackets.replace(b"()", b"")  # removes the innermost pairs
        if len(outer) == len(brackets):  # what is left is not balanced
            return outer.count(b"(") > MAX_DEPTH
        brackets = outer
    return bool(brackets)


def decode_json(data: bytes | str, max_values: int = UNLIMITED) -> Any:
    """Decode JSON to plain data.

    Raises:
        ValueError: If the data is not JSON, is nested deeper than `MAX_DEPTH`, or has too many values.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    check_json(data, max_values)
    return msgspec.json.decode(data)


def decode_arguments(text: str) -> Any:
    """Decode the arguments of a tool call; return None if they are not JSON.

    Half of a surrogate pair becomes U+FFFD, as in the value that grows while the arguments arrive.
    """
    try:
        return decode_json(text)
    except ValueError:
        whole = PartialJSON(max_depth=MAX_DEPTH)
        whole.feed(text)
        return whole.value if whole.complete and whole.valid else None


def is_deeper(value: Any, max_depth: int = MAX_DEPTH) -> bool:
    """Whether plain data is nested deeper than ``max_depth``."""
    # The levels are visited one after the other. A function that calls itself for each level could raise a `RecursionError`
    # itself.
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
