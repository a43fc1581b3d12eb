"""Reads JSON while it arrives: one value that grows with each piece of text.

The text is read once. Three methods read it in turn: `_read_structure` reads brackets, commas and colons, `_read_string` reads
the inside of a string, and `_read_scalar` reads a number or a word. A few attributes keep the state between two pieces. So the
cost of a piece does not depend on the text before it, and there is no recursion.
"""

from __future__ import annotations

import enum
import math
import re
from typing import Any

_MAX_DEPTH = 512
# The time that Python takes to read an integer grows with the square of its digits. By default Python refuses integers with
# more digits than this.
_MAX_DIGITS = 4300

# Each constant describes what may come next in the text, by the characters with which it may begin; white space is always allowed.
_VALUE = '{["-0123456789tfn'
_ITEM_OR_END = _VALUE + "]"
_KEY = '"'
_KEY_OR_END = '"}'
_KEYS = (_KEY, _KEY_OR_END)
_COLON = ":"
_AFTER_ITEM = ",]"
_AFTER_MEMBER = ",}"
_NOTHING = ""  # nothing but white space may come after the root

_WHITE = " \t\n\r"

_whole_string = re.compile(r'"([^"\\\x00-\x1f\ud800-\udfff]*)"').match
_plain = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]+').match
# An escape by a letter, an escape by a code, or the beginning of an escape.
_escape = re.compile(r'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4})|(?:u[0-9a-fA-F]{0,3})?)').match
_ESCAPED = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_REPLACEMENT = "\ufffd"

# For each state of a number or word: the characters that may follow, and the next state. The state of a word is the part that
# was received. The state of a number is the name of its last part.
_WORDS = {"true": True, "false": False, "null": None}
_DIGITS = "0123456789"
_SCALAR: dict[str, dict[str, str]] = {
    "": {"-": "-", "0": "0", **dict.fromkeys(_DIGITS[1:], "1")},
    "-": {"0": "0", **dict.fromkeys(_DIGITS[1:], "1")},
    "0": {".": ".", "e": "e", "E": "e"},
    "1": {**dict.fromkeys(_DIGITS, "1"), ".": ".", "e": "e", "E": "e"},
    ".": dict.fromkeys(_DIGITS, ".1"),
    ".1": {**dict.fromkeys(_DIGITS, ".1"), "e": "e", "E": "e"},
    "e": {"+": "e+", "-": "e+", **dict.fromkeys(_DIGITS, "e1")},
    "e+": dict.fromkeys(_DIGITS, "e1"),
    "e1": dict.fromkeys(_DIGITS, "e1"),
}
for _word in _WORDS:
    for _at, _letter in enumerate(_word):
        _SCALAR.setdefault(_word[:_at], {})[_letter] = _word[: _at + 1]
_INTEGERS = ("0", "1")
_NUMBERS = (*_INTEGERS, ".1", "e1")  # the states in which a number may end


class _Inside(enum.Enum):
    STRUCTURE = enum.auto()
    STRING = enum.auto()
    SCALAR = enum.auto()


class PartialJSON:
    """Reads one JSON value from text that arrives in pieces.

    A string appears in the value with its opening quotation mark, and grows. A number appears when the next character shows its
    end, a word when it is whole, and a key together with its value. Of two equal keys, the last one counts. The beginning of an
    escape appears when the rest of it has arrived, and so does the first half of a surrogate pair. Half a pair without the
    other half becomes U+FFFD.

    The cost of a piece depends only on its length. Python extends a long string in place, unless your code holds a reference to
    the string.

    Numbers that are too large for a float, and integers of more than 4,300 digits, are invalid.

    Args:
        max_depth: How many objects and arrays may be inside each other. Deeper text is invalid.

    Attributes:
        valid: Whether the text so far may begin JSON. After the first character that cannot belong to JSON this is False, and
            the value stays as it was before this character.
    """

    __slots__ = ("_escape", "_expected", "_high", "_inside", "_key", "_max_depth", "_open", "_pieces", "_place", "_root",
                 "_size", "_state", "_target", "valid")  # fmt: skip

    def __init__(self, *, max_depth: int = _MAX_DEPTH) -> None:
        self.valid = True
        self._max_depth = max_depth
        # Number of characters that were read; if the text is invalid, the position of the first wrong character.
        self._size = 0
        self._root: list[Any] = []  # contains the root, once the root is known
        self._open: list[Any] = [self._root]  # the containers that are not closed yet, from the outside in
        self._inside = _Inside.STRUCTURE
        self._expected = _VALUE
        self._key = [""]  # the key of the next member; in a list, so that a key is read like other strings
        self._target: Any = self._root  # the container of the current string; `_place` is its index or key
        self._place: int | str = 0
        self._escape = ""  # the beginning of an escape
        self._high = ""  # the first half of a surrogate pair
        self._state = ""  # the state of the current number or word, a key of `_SCALAR`
        self._pieces: list[str] = []  # the text of the current number or word

    @property
    def value(self) -> Any:
        """The value as far as it is known, or None. If it is an object or array, it is the same object each time, and grows."""
        return self._root[0] if self._root else None

    @property
    def complete(self) -> bool:
        """Whether the value is whole, so that more text would be invalid. At the root, only white space or `close` ends a number."""
        return self._expected == _NOTHING

    def feed(self, text: str) -> Any:
        """Read a piece of text; return `value`. Text after the first wrong character is ignored."""
        if self.valid:
            text = self._escape + text
            self._escape = ""
            at, end = 0, len(text)
            while at < end:
                if self._inside is _Inside.STRING:
                    at = self._read_string(text, at)
                elif self._inside is _Inside.SCALAR:
                    at = self._read_scalar(text, at)
                else:
                    at = self._read_structure(text, at)
            if self.valid:
                self._size += end - len(self._escape)
        return self.value

    def close(self) -> Any:
        """Return the value of the whole text.

        Raises:
            ValueError: If the text is not exactly one JSON value. The message has the position of the first wrong character,
                or of the end of a text that is cut.
        """
        if self._inside is _Inside.SCALAR and len(self._open) == 1 and self._state in _NUMBERS:
            self.feed(" ")
        if not self.valid:
            raise ValueError(f"not JSON: wrong at position {self._size}")
        if not self.complete:
            raise ValueError(f"not whole JSON: ends at position {self._size + len(self._escape)}")
        return self.value

    def _fail(self, text: str, at: int) -> int:
        """Note the position of the first wrong character; return the end of the text, so that reading ends."""
        self.valid = False
        self._size += at
        return len(text)

    def _read_structure(self, text: str, at: int) -> int:
        """Read brackets, commas and colons; stop at a string, a number or a word, which the other methods read."""
        while at < len(text):
            character = text[at]
            if character in _WHITE:
                at += 1
                continue
            if character not in self._expected:
                return self._fail(text, at)
            if character == '"':
                at = self._begin_string(text, at)
                if self._inside is _Inside.STRING:
                    return at
                continue
            if character == ",":
                self._expected = _VALUE if self._expected == _AFTER_ITEM else _KEY
            elif character == ":":
                self._expected = _VALUE
            elif character in "]}":
                self._open.pop()
                self._expected = self._after()
            elif character in "[{":
                if len(self._open) > self._max_depth:
                    return self._fail(text, at)
                container: Any = [] if character == "[" else {}
                self._add(container)
                self._open.append(container)
                self._expected = _ITEM_OR_END if character == "[" else _KEY_OR_END
            else:
                self._inside = _Inside.SCALAR
                self._state = ""
                self._pieces = []
                return at
            at += 1
        return at

    def _begin_string(self, text: str, at: int) -> int:
        is_key = self._expected in _KEYS
        # Callers that seldom read the value feed large pieces. Most strings in a large piece are whole and without escapes, and
        # reading them in one step halves the time for the piece.
        whole = _whole_string(text, at)
        string = whole[1] if whole else ""
        if is_key:
            self._key[0] = string
        else:
            self._add(string)
        if whole:
            self._expected = _COLON if is_key else self._after()
            return whole.end()
        self._inside = _Inside.STRING
        self._target = self._key if is_key else self._open[-1]
        self._place = self._key[0] if type(self._target) is dict else -1
        return at + 1

    def _add(self, value: Any) -> None:
        """Add a value to the innermost container."""
        container = self._open[-1]
        if type(container) is dict:
            container[self._key[0]] = value
        else:
            container.append(value)

    def _after(self) -> str:
        """Return what may come after a value in the innermost container."""
        if len(self._open) == 1:
            return _NOTHING
        return _AFTER_MEMBER if type(self._open[-1]) is dict else _AFTER_ITEM

    def _read_string(self, text: str, at: int) -> int:
        """Read the inside of a string up to its end or the end of the text."""
        target, place = self._target, self._place
        # CPython extends a string in place if a local variable is the only reference to it. With another reference it copies
        # the string, and a long string in many pieces would take quadratic time.
        string: str = target[place]
        target[place] = None
        while at < len(text):
            if (match := _plain(text, at)) is not None:
                at = match.end()
                piece = match.group()
            elif (character := text[at]) == '"':
                string += _REPLACEMENT if self._high else ""
                self._high = ""
                self._inside = _Inside.STRUCTURE
                self._expected = _COLON if target is self._key else self._after()
                at += 1
                break
            elif (match := _escape(text, at)) is not None:
                at = match.end()
                if match[1] or match[2]:
                    piece = _ESCAPED[match[1]] if match[1] else chr(int(match[2], 16))
                else:
                    if at < len(text):
                        at = self._fail(text, at)
                    else:
                        self._escape = match[0]
                    break
            elif _is_half(character):
                at += 1
                piece = character
            else:  # the character is a control character
                at = self._fail(text, at)
                break
            if self._high or _is_half(piece):
                piece, self._high = _join_halves(self._high + piece)
            string += piece
        target[place] = string
        return at

    def _read_scalar(self, text: str, at: int) -> int:
        """Read a number or a word up to its end or the end of the text."""
        start, state = at, self._state
        while at < len(text) and (following := _SCALAR[state].get(text[at])) is not None:
            state = following
            at += 1
            if state in _WORDS:
                return self._end_scalar(_WORDS[state], at)
        self._state = state
        self._pieces.append(text[start:at])
        if at == len(text):
            return at
        if state in _NUMBERS and text[at] in self._after() + _WHITE:
            number = _number("".join(self._pieces), is_integer=state in _INTEGERS)
            if number is not None:
                return self._end_scalar(number, at)
        return self._fail(text, at)

    def _end_scalar(self, value: Any, at: int) -> int:
        self._add(value)
        self._inside = _Inside.STRUCTURE
        self._expected = self._after()
        return at


def _is_half(text: str) -> bool:
    """Whether a text is half of a surrogate pair."""
    return "\ud800" <= text <= "\udfff"


def _join_halves(text: str) -> tuple[str, str]:
    """Join surrogate pairs and replace lone halves by U+FFFD; return the text, and separately a high surrogate at its end."""
    high = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    units = text[: len(text) - len(high)].encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "replace"), high


def _number(text: str, *, is_integer: bool) -> float | None:
    """Convert the text of a number; return None if the number is too large."""
    if is_integer:
        try:
            return int(text) if len(text.lstrip("-")) <= _MAX_DIGITS else None
        except ValueError:  # the program has set a lower limit for integers
            return None
    value = float(text)
    return None if math.isinf(value) else value
