"""A JSON text that is received in pieces, and that knows whether it is whole.

Theory of operation
===================

Whether another piece belongs to the arguments of a call depends on whether the arguments so far are whole. Parsing all of
them again for each piece would take quadratic time. Therefore each piece is read once: its quotation marks and brackets
show whether the value has ended.

=======  ============================================================  =================================
BLANK    nothing but white space so far                                OPEN, CLOSED, SCALAR
OPEN     a string, a list or an object has begun and has not ended     CLOSED, BROKEN
CLOSED   it has ended; whether it is JSON is not known yet             WHOLE, BROKEN
WHOLE    it is JSON                                                    BROKEN
SCALAR   a number or a word; more digits or letters may follow         BROKEN
BROKEN   not JSON, and no further piece can make it JSON
=======  ============================================================  =================================

`ToolCalls.add` only appends usual pieces. They are read later, many together, when a property such as `whole` needs the
state. They are read after 64 kB at the latest, so that no property takes long.

Only a parser can decide whether a CLOSED text is JSON. The property `whole` runs the parser, at most once for each text,
and the state becomes WHOLE or BROKEN. The parser never runs for a usual call, because no fragment follows its arguments.
"""

from __future__ import annotations

import enum
import re

import msgspec

from .pieces import utf8_size

_WHITE = " \t\n\r"
_BEGINNINGS = ("{", "[", '"')
# An escape in a string, with the character after the backslash if it was received; or a quotation mark or bracket.
_MARKS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
MAX_PENDING = 64 * 1024  # characters that may be appended without being read
# A longer piece is not read, because that would block the event loop for too long. If it is the first piece, the text counts
# as CLOSED, which is right if the server sends arguments in one piece. Otherwise the text counts as BROKEN.
MAX_PIECE = 256 * 1024
_MAX_SCALAR = 64  # a longer number never counts as whole
# Objects of up to this many characters are compared by value, longer objects as text.
_MAX_COMPARED = 64 * 1024
# Spaces, line breaks and escapes rarely make an object more than this many times as long. An object that is longer than a new
# piece by this factor is not compared with it, so that the size of the piece bounds the cost of the comparison.
_MAX_RATIO = 16
_MAX_INTEGER = 2.0**53  # up to here, a float represents every whole number exactly

_check = msgspec.json.Decoder(msgspec.Raw).decode  # checks the syntax without making objects


def _number(digits: str) -> float:
    value = float(digits)
    return int(value) if value.is_integer() and abs(value) < _MAX_INTEGER else value


_decode = msgspec.json.Decoder(float_hook=_number).decode  # makes 1.0 equal to 1


class _State(enum.Enum):
    BLANK = "blank"
    OPEN = "open"
    CLOSED = "closed"
    WHOLE = "whole"
    SCALAR = "scalar"
    BROKEN = "broken"


class JsonText:
    """A JSON text in pieces.

    Attributes:
        pieces: The pieces; a list that only grows.
        pending: Characters of the last pieces that were appended without being read.
        uncounted: By how much the bytes of pieces that were pending exceed their characters; the caller resets it.
        hurried: Whether the next piece counts as long, whatever its length, because others came together with it.
    """

    __slots__ = ("_depth", "_empty", "_escaped", "_in_string", "_is_object", "_pieces_read", "_size", "_state", "hurried",
                 "pending", "pieces", "uncounted")  # fmt: skip

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.pending: int = 0
        self.uncounted: int = 0
        self.hurried: bool = False
        self._pieces_read: int = 0
        self._size: int = 0  # characters that have been read
        self._state: _State = _State.BLANK
        self._is_object: bool = False  # whether the text begins an object
        self._depth: int = 0  # number of open lists and objects
        self._in_string: bool = False
        self._escaped: bool = False  # whether the text so far ends with a backslash
        self._empty: bool = False  # whether the text is a whole object without fields

    def __str__(self) -> str:
        return "".join(self.pieces)

    def add(self, piece: str) -> int:
        """Add a piece; return its size in bytes."""
        self.read_pending()
        self.pieces.append(piece)
        self._pieces_read += 1
        self._read(piece)
        return utf8_size(piece)

    def extend(self, pieces: list[str]) -> int:
        """Add pieces, unless the text may be whole before the last of them.

        Returns:
            The number of bytes that were added.
        """
        self.read_pending()
        joined = "".join(pieces[:-1])
        before = (self._state, self._is_object, self._depth, self._in_string, self._escaped, self._size)
        self._read(joined)
        if self._state in {_State.CLOSED, _State.WHOLE} or (
            self._state is _State.BROKEN and before[0] is not _State.BROKEN
        ):
            self._state, self._is_object, self._depth, self._in_string, self._escaped, self._size = before
            return 0
        self.pieces += pieces[:-1]
        self._pieces_read = len(self.pieces)
        return utf8_size(joined) + self.add(pieces[-1])

    def read_pending(self) -> None:
        """Read the pieces that were appended without being read."""
        if self.pending:
            joined = "".join(self.pieces[self._pieces_read :])
            self._pieces_read = len(self.pieces)
            self.pending = 0
            self.uncounted += utf8_size(joined) - len(joined)
            self._read(joined)

    def _read(self, piece: str) -> None:
        self._size += len(piece)
        if self._state is _State.OPEN:
            self._scan(piece)
        elif self._state is _State.BLANK:
            text = piece.lstrip(_WHITE)
            if text:
                self._is_object = text[0] == "{"
                self._state = _State.OPEN if text[0] in _BEGINNINGS else _State.SCALAR
                if self._state is _State.OPEN:
                    self._scan(text, first=True)
        elif self._state in {_State.CLOSED, _State.WHOLE} and not is_blank(piece):
            self._state = _State.BROKEN

    def _scan(self, piece: str, *, first: bool = False) -> None:
        if self.hurried or len(piece) > MAX_PIECE:
            self._state = _State.CLOSED if first else _State.BROKEN
            return
        depth, in_string = self._depth, self._in_string
        marks = _MARKS.findall(piece, 1 if self._escaped else 0)
        for mark in marks:
            if mark == '"':
                in_string = not in_string
            elif in_string:
                continue
            elif mark in "{[":
                depth += 1
            elif mark in "}]":
                depth -= 1
            if depth == 0 and not in_string:
                # `whole` finds out whether anything is behind the end of the value.
                self._state = _State.CLOSED
                return
        self._depth, self._in_string = depth, in_string
        if piece:
            self._escaped = bool(marks) and marks[-1] == "\\"

    @property
    def blank(self) -> bool:
        """Whether the text so far is empty or white space."""
        self.read_pending()
        return self._state is _State.BLANK

    @property
    def open(self) -> bool:
        """Whether a bracket or quotation mark is still open, so that more of the text must follow."""
        self.read_pending()
        return self._state is _State.OPEN

    @property
    def whole(self) -> bool:
        """Whether the text is exactly one JSON value. More digits may follow a number that is whole."""
        self.read_pending()
        if self._state is _State.CLOSED:
            text = str(self)
            self._state = _State.WHOLE if _is_json(text) else _State.BROKEN
            self._empty = self._is_object and is_blank(text.strip(_WHITE)[1:-1])
        if self._state is _State.SCALAR:
            return self._size <= _MAX_SCALAR and _is_json(str(self))
        return self._state is _State.WHOLE

    @property
    def whole_object(self) -> bool:
        """Whether the text is exactly one JSON object."""
        self.read_pending()
        return self._is_object and self.whole

    @property
    def empty_object(self) -> bool:
        """Whether the text is exactly one JSON object without fields."""
        return self.whole_object and self._empty

    @property
    def is_placeholder(self) -> bool:
        """Whether the text was received in one piece and is an object without fields."""
        return len(self.pieces) == 1 and self.empty_object

    def repeated_by(self, text: str) -> bool:
        """Whether another text is the same JSON object; the time depends only on the size of the other text."""
        text = text.strip(_WHITE)
        if not text.startswith("{") or self._size > _MAX_RATIO * len(text):
            return False
        mine = str(self).strip(_WHITE)
        return text == mine or canonical(text) == canonical(mine)


def is_blank(text: str) -> bool:
    """Whether a text is empty or only white space of JSON."""
    return not text.strip(_WHITE)


def canonical(text: str) -> str | bytes:
    """Return a form that is equal for all texts of the same JSON value; the text itself if it is long or not JSON."""
    if len(text) > _MAX_COMPARED:
        return text
    try:
        return msgspec.json.encode(_decode(text), order="sorted")
    except (ValueError, RecursionError):
        return text


def _is_json(text: str) -> bool:
    try:
        _check(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
