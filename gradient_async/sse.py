"""Bytes to events, by the WHATWG rules for event streams.

Pure: no clock, no I/O. `EventDecoder` follows the standard to the letter, wherever the network cuts.
`plain_objects` recognises a block that is nothing but one-line events, which is what servers send nearly
all the time, and takes the JSON out of it in one call.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import NoReturn

import msgspec

from .errors import StreamLimitError

__all__ = ["Event", "EventDecoder"]

_BOM = b"\xef\xbb\xbf"
_DEFAULT_LIMIT = 16 * 1024 * 1024
_DEFAULT_LINE = _DEFAULT_LIMIT + 1024  # the longest event fits on one line, its field's name included
_DATA = b"data:"
_CR = 0x0D
_COLON = 0x3A
_SPACE = 0x20
_MANY_LINES = 1000  # data lines of one event, from which on they are joined before its end
_MANY_ENDS = 64  # CR and LF, from which on a stretch is one of many lines
_LONGEST_RETRY = 18  # digits; whatever has more is no time to wait


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event.

    Attributes:
        data: Payload; several data lines are joined by LF.
        type: Name of the event.
        id: The last id seen, in this event or before.
    """

    data: bytes
    type: str = "message"
    id: str = ""


class EventDecoder:
    """Incremental decoder of one event stream.

    An event is dispatched as soon as its blank line is there. What arrives whole is sliced out of the
    bytes fed, once; only an event that the network cut is joined. Comments are dropped as they arrive.

    Args:
        max_event_bytes: Most bytes of data in one event; a security limit. None is no limit.
        max_line_bytes: Most bytes in one line; a security limit. None is no limit.

    Attributes:
        retry: The reconnection time the server last asked for, in milliseconds, or None.
        last_event_id: The last id seen.
        error: The limit that was exceeded, if one was.
    """

    __slots__ = (
        "_at_start",
        "_blocks",
        "_data",
        "_data_size",
        "_line",
        "_line_size",
        "_skip_lf",
        "_type",
        "error",
        "last_event_id",
        "max_event_bytes",
        "max_line_bytes",
        "retry",
    )

    def __init__(
        self, *, max_event_bytes: int | None = _DEFAULT_LIMIT, max_line_bytes: int | None = _DEFAULT_LINE
    ) -> None:
        self.max_event_bytes = max_event_bytes
        self.max_line_bytes = max_line_bytes
        self.retry: int | None = None
        self.last_event_id = ""
        # A byte order mark may come in pieces: None once the first three bytes have been seen.
        self._at_start: bytes | None = b""
        self._skip_lf = False  # the bytes before ended in CR: a LF that follows belongs to it
        self._line: list[bytes] = []  # pieces of a line whose end has not come
        self._line_size = 0
        self._data: list[bytes] = []  # data lines of an event whose blank line has not come
        self._blocks: list[
            bytes
        ] = []  # the first of them, joined by the thousand; the last is never among these
        self._data_size = -1  # their size once joined: the first line has no LF before it
        self._type = ""
        self.error: StreamLimitError | None = None

    @property
    def idle(self) -> bool:
        """Whether the next byte begins a new event, with nothing held of the one before."""
        return self._at_start is None and not (
            self._line or self._data or self._type or self._skip_lf or self.error
        )

    def expect(self, data: bytes) -> None:
        """Look at the first bytes, before they are fed: `idle` if there is no byte order mark to drop."""
        if self._at_start == b"" and data[:1] not in (b"", b"\xef"):
            self._at_start = None

    def held(self) -> bytes:
        """Return what is held of an unfinished event, as bytes that decode to the same event."""
        lines = [b"event: " + self._type.encode()] if self._type else []
        lines += [b"data: " + value for block in self._blocks for value in block.split(b"\n")]
        lines += [b"data: " + value for value in self._data]
        head = b"".join(line + b"\n" for line in lines)
        if head and self._skip_lf:
            head = head[:-1] + b"\r"  # so that the LF to come is no line of its own
        return (self._at_start or b"") + head + b"".join(self._line)

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes off the wire; return the events they complete.

        Args:
            data: Any number of bytes, cut anywhere.

        Raises:
            StreamLimitError: If an event or a line exceeds its limit. Events that came before it in the
                same bytes are returned first; the next call raises.
        """
        if self.error is not None:
            raise self.error
        events: list[Event] = []
        try:
            self._take(self._normalise(data), events)
        except StreamLimitError as error:
            self.error = error
            if not events:
                raise
        return events

    def close(self) -> list[Event]:
        """End the stream; return the event that the standard would drop for want of a blank line.

        Raises:
            StreamLimitError: If `feed` found a limit exceeded and could not say so yet.
        """
        if self.error is not None:
            raise self.error
        events: list[Event] = []
        self._at_start = None  # a piece of a byte order mark is no line that means anything
        try:
            self._take(b"\n", events)
            self._dispatch(events)
        except StreamLimitError as error:
            self.error = error
            raise
        return events

    def _normalise(self, data: bytes) -> bytes:
        """Drop the byte order mark and make every line end in LF."""
        if self._at_start is not None:
            data = self._at_start + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._at_start = data
                return b""
            self._at_start = None
            data = data.removeprefix(_BOM)
        if self._skip_lf and data:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        if _CR in data:
            # A CR at the very end ends its line at once; only the LF it may have is still to come.
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _take(self, data: bytes, events: list[Event]) -> None:
        start = 0
        if self._line:
            end = data.find(b"\n")
            if end < 0:
                self._hold(data)
                return
            self._hold(data[:end])
            line = b"".join(self._line)
            self._line.clear()
            self._line_size = 0
            self._field(line, 0, len(line))
            start = end + 1
        while (end := data.find(b"\n", start)) >= 0:
            if end == start:
                self._dispatch(events)
            else:
                self._field(data, start, end)
            start = end + 1
        if start < len(data):
            self._hold(data[start:])

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of an unfinished line, unless the line is too long already."""
        self._line_size += len(piece)
        if self.max_line_bytes is not None and self._line_size > self.max_line_bytes:
            self._line.append(piece)
            self._refuse_line(self._head_of_line(), self.max_line_bytes)
        if self._line and self._line[0].startswith(b":"):
            return  # a comment: its length is all that matters
        self._line.append(piece)
        if self.max_event_bytes is None or self._data_size + 1 + self._line_size <= self.max_event_bytes:
            return
        head = self._line[0]
        if len(head) <= len(_DATA):
            head = b"".join(self._line)
            self._line[:] = [head]
        if head.startswith(_DATA):
            self._check_event(self._line_size - len(_DATA) - (head[len(_DATA) : len(_DATA) + 1] == b" "))

    def _field(self, line: bytes, start: int, end: int) -> None:
        if self.max_line_bytes is not None and end - start > self.max_line_bytes:
            self._refuse_line(line[start : start + len(_DATA) + 1], self.max_line_bytes)
        if line.startswith(_DATA, start, end):
            start += len(_DATA)
            if start < end and line[start] == _SPACE:
                start += 1
            self._check_event(end - start)
            self._data.append(line[start:end])
            self._data_size += end - start + 1
            if len(self._data) > _MANY_LINES:
                self._fold()
            return
        if line[start] == _COLON:
            return
        name, _, value = line[start:end].partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._check_event(0)
            self._data.append(b"")
            self._data_size += 1
            if len(self._data) > _MANY_LINES:
                self._fold()
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self.last_event_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _LONGEST_RETRY:
            self.retry = int(value)

    def _fold(self) -> None:
        """Join what has come of an event, but for its last line: an object a line takes more than most lines do."""
        self._blocks.append(b"\n".join(self._data[:-1]))
        del self._data[:-1]

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            if len(self._data) == 1 and not self._blocks:
                data = self._data[0]
            else:
                data = b"\n".join(self._blocks + self._data)
                self._blocks.clear()
            events.append(Event(data, self._type or "message", self.last_event_id))
            self._data.clear()
            self._data_size = -1
        self._type = ""

    def _head_of_line(self) -> bytes:
        """The first bytes of the unfinished line, enough to tell its field; the line itself may be large."""
        head = b""
        for piece in self._line:
            head += piece[: len(_DATA) + 1]
            if len(head) > len(_DATA):
                break
        return head[: len(_DATA) + 1]

    def _refuse_line(self, head: bytes, limit: int) -> NoReturn:
        """Raise for a line that is too long, or for its event, if that limit comes first."""
        if head[:limit].startswith(_DATA):
            self._check_event(limit - len(_DATA) - (head[len(_DATA) : limit] == b" "))
        raise StreamLimitError(
            f"a line of the stream has more than max_line_bytes={limit} bytes; "
            "raise Limits(line_bytes=...) if the server is to be trusted"
        )

    def _check_event(self, more: int) -> None:
        if self.max_event_bytes is not None and self._data_size + 1 + more > self.max_event_bytes:
            raise StreamLimitError(
                f"an event of the stream has more than max_event_bytes={self.max_event_bytes} bytes; "
                "raise Limits(event_bytes=...) if the server is to be trusted"
            )


def plain_objects(block: bytes) -> tuple[memoryview, int] | None:
    r"""Take the JSON objects out of a block of nothing but one-line events.

    The block is plain when it begins with ``data: {``, ends with ``}\n\n``, and has no line end but the two LF between
    ``}`` and ``data: {``: then each event is one line, and no line holds anything but its payload.

    What is put between payloads is white space, and holds a CR, which no JSON string has in it; and in no object or
    array does ``{`` follow ``}`` without a comma. So no value goes on from one event into the next: each has one at
    least, and if there are as many values as events, each is its event's whole payload.

    Args:
        block: Bytes that begin and end at an event's boundary.

    Returns:
        The payloads, with white space between them, and how many they are; None if the block is not plain. A single
        payload is where it was: nothing is copied.
    """
    if not (block.startswith(b"data: {") and block.endswith(b"}\n\n")) or _CR in block:
        return None
    end = len(block) - 2
    if block.find(b"\n") == end:
        return memoryview(block)[6:end], 1
    # What is as long as that which it replaces is written over it, in one pass.
    payloads = block.replace(b"}\n\ndata: {", b"}\r       {")
    if payloads.find(b"\n") != end:
        return None
    # To remove single bytes, and compare lengths, is the quickest way to count them.
    return memoryview(payloads)[6:end], (len(block) - len(block.replace(b"\n", b""))) // 2


def end_of_lines(data: bytes, start: int, end: int) -> int:
    """Return where to cut a stretch of many short lines; 0 if it has few, and is best kept in one piece.

    Args:
        data: Bytes of a stream.
        start: Where the stretch begins.
        end: Where it has to end.
    """
    if data.count(b"\n", start, end) + data.count(b"\r", start, end) < _MANY_ENDS:
        return 0
    blank = data.rfind(b"\r\n\r\n", start, end)
    return blank + 4 if blank >= 0 else max(data.rfind(b"\n", start, end), data.rfind(b"\r", start, end)) + 1
