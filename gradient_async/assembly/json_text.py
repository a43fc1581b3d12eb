"""JSON text that is received in pieces, and whether it is whole by now.

Theory of operation
===================

Whether another piece belongs to the arguments of a call depends on whether the arguments so far are whole. To parse them
anew for each piece would make a long text cost the square of its length. Therefore each piece is read once: its quotation
marks and brackets show whether the value has ended.

=======  ============================================================  =================================
BLANK    nothing but white space so far                                OPEN, CLOSED, SCALAR
OPEN     a string, a list or an object has begun and has not ended     CLOSED, BROKEN
CLOSED   it has ended; whether it is JSON is not known yet             WHOLE, BROKEN
WHOLE    it is JSON                                                    BROKEN
SCALAR   a number or a word, which may be whole and go on nevertheless BROKEN
BROKEN   no JSON, and no piece can make JSON of it
=======  ============================================================  =================================

Usual pieces are only appended, by `ToolCalls.add`, and read later, many together: when somebody asks, and after 64 kB at
the latest, so that nobody who asks waits long.

Only a parser knows whether a CLOSED text is JSON. It runs when somebody asks, at most once for each text: the answer is
WHOLE or BROKEN. Nobody asks about the arguments of a usual call, because nothing comes behind them.
"""

from __future__ import annotations

import enum
import re

import msgspec

from .pieces import utf8_size

_WHITE = " \t\n\r"
_BEGINNINGS = ("{", "[", '"')
# An escape in a string, with the character behind the backslash if that has come; or what opens or closes something.
_MARKS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
MAX_PENDING = 64 * 1024  # characters that may be appended without being read
# A piece beyond this size is not read: it would hold the event loop for too long. If nothing came before it, it counts
# as CLOSED, which is right where a server sends arguments as a whole; otherwise the text counts as BROKEN.
_MAX_PIECE = 256 * 1024
_MAX_SCALAR = 64  # characters of a number that counts as whole
_MAX_COMPARED = (
    64 * 1024
)  # characters of objects that are compared by value; longer ones are compared as text
# Spaces, line breaks and escapes make an object at most so many times as long as the same object written otherwise. This
# bounds the cost of a comparison by the size of the new piece.
_MAX_RATIO = 16
_MAX_INTEGER = 2.0**53  # every whole number up to here is a float

_check = msgspec.json.Decoder(msgspec.Raw).decode  # parses, and makes no objects


def _number(digits: str) -> float:
    value = float(digits)
    return int(value) if value.is_integer() and abs(value) < _MAX_INTEGER else value


_decode = msgspec.json.Decoder(float_hook=_number).decode  # 1.0 is the number 1


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
        uncounted: By how much the bytes of pieces that were pending exceed their characters.
    """

    __slots__ = ("_depth", "_empty", "_escaped", "_in_string", "_is_object", "_pieces_read", "_size", "_state", "pending",
                 "pieces", "uncounted")  # fmt: skip

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.pending: int = 0
        self.uncounted: int = 0
        self._pieces_read: int = 0
        self._size: int = 0  # characters that have been read
        self._state: _State = _State.BLANK
        self._is_object: bool = False  # whether the text begins an object
        self._depth: int = 0  # of open lists and objects
        self._in_string: bool = False
        self._escaped: bool = False  # the text so far ends with a backslash
        self._empty: bool = False  # a whole object with nothing in it

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
        if len(piece) > _MAX_PIECE:
            self._state = _State.CLOSED if first else _State.BROKEN
            return
        depth, in_string = self._depth, self._in_string
        marks = _MARKS.findall(piece, 1 if self._escaped else 0)
        for at, mark in enumerate(marks):
            if mark == '"':
                in_string = not in_string
            elif in_string:
                continue
            elif mark in "{[":
                depth += 1
            elif mark in "}]":
                depth -= 1
            if depth == 0 and not in_string:
                # The value ends here; whatever follows, but white space, makes the text invalid.
                rest = at + 1 < len(marks) or not is_blank(piece[piece.rfind(mark) + 1 :])
                self._state = _State.BROKEN if rest else _State.CLOSED
                return
        self._depth, self._in_string = depth, in_string
        if piece:
            self._escaped = bool(marks) and marks[-1] == "\\"

    @property
    def blank(self) -> bool:
        """Whether nothing but white space has come."""
        self.read_pending()
        return self._state is _State.BLANK

    @property
    def open(self) -> bool:
        """Whether the text is the beginning of a longer one, as far as its brackets and quotation marks show."""
        self.read_pending()
        return self._state is _State.OPEN

    @property
    def whole(self) -> bool:
        """Whether the text is exactly one JSON value; a number that is whole may go on nevertheless."""
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
        """Whether the text is exactly one JSON object with nothing in it."""
        return self.whole_object and self._empty

    @property
    def is_placeholder(self) -> bool:
        """Whether the text is one piece, an object with nothing in it."""
        return len(self.pieces) == 1 and self.empty_object

    def repeated_by(self, text: str) -> bool:
        """Whether a text is the same JSON object as this one; the work depends on the size of that text alone."""
        text = text.strip(_WHITE)
        if not text.startswith("{") or self._size > _MAX_RATIO * len(text):
            return False
        mine = str(self).strip(_WHITE)
        return text == mine or canonical(text) == canonical(mine)


def is_blank(text: str) -> bool:
    """Whether a text is empty, or white space of JSON."""
    return not text.strip(_WHITE)


def canonical(text: str) -> str | bytes:
    """Return what is equal for all ways to write one JSON value; the text itself if it is long, or not JSON."""
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
