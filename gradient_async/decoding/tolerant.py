"""Events to payloads, and payloads to chunks, one by one: the tolerant path of `ChunkDecoder`.

Theory of operation
===================

`sse.EventDecoder` follows the standard, and servers do not always. Three things are no business of a decoder of events:

- An event without its blank line is joined to the next one. Several lines that are not one JSON value, but one each, are
  several payloads: `split_payloads`.
- Lines that the standard ignores may hold an error: in a field named ``error``, or as JSON without any field. See
  `payloads_of_ignored`.
- Data may be only a word: the end, or a sign of life. See `word_of`.

What is left is JSON. `PayloadDecoder` decodes it with the typed decoder. Only if that refuses the payload, or understands
no answer in it, the payload is decoded once more, to plain data:

    decode ──> typed ──┬─> _accept       a chunk with an answer
                       └─> identify ──┬─> an error, or no JSON: raised
                         plain data   ├─> a heartbeat, another API, nothing known: passed over, and counted
                                      ├─> _accept, a chunk of usage, say
                                      └─> _repair, a chunk in another shape

What is passed over is harmless in a stream that also has choices: gateways mix events of their own, and even of other
APIs, into the chunks. A stream that ends without a single choice is an error, and that error names the first payload that
was no heartbeat: see `unanswered`.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias

import msgspec

from ..config import Limits
from ..errors import StreamProtocolError, call_index_error, choice_index_error, escape
from ..types import ChatCompletionChunk, ChunkChoice
from .choiceless import OtherAPI, identify, is_heartbeat
from .error_bodies import ErrorBody, find_glued_error, parse_error, server_error
from .normalize import (
    DECODE_ERRORS,
    SurrogateJoiner,
    TextElsewhere,
    describe_decode_error,
    first_of,
    has_silent_choice,
    is_object,
    loads,
    loads_or_none,
    may_hide_text,
    normalize_finish_reason,
    normalize_message,
    to_chunk,
)

# Data to be decoded, and the name of its event.
Payload: TypeAlias = tuple[bytes, str]

DONE = b"[DONE]"
_LF = b"\n"
_WORDS = frozenset({b"ping", b"heartbeat", b"keepalive", b"keep-alive"})  # data that says nothing
_SHOWN = 200  # bytes of a bad payload that an error shows
_MAX_LINES = 10_000  # payloads of one event; more would keep the event loop waiting
_OBJECT = re.compile(rb"\[?\s*\{")
_NO_ERROR = frozenset({b"", b"null", b"{}", b"0", b"false", b'""'})
# Parts of names that say that something failed, whatever their case and underscores.
_SPEAKING = (b"rr", b'ode"', b"tatus", b"uccess", b'etail"', b"essage", b'sg"', b'itle"', b'esp"')
_decode = msgspec.json.Decoder(ChatCompletionChunk).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode  # checks the syntax, and makes no objects


def word_of(data: bytes, name: str) -> Literal["done", "heartbeat"] | None:
    """Say what data is that is only a word; None if it has to be decoded.

    Args:
        data: Data of an event, without white space around it. The word may stand in quotation marks.
        name: Name of the event.
    """
    if data.startswith(b"{"):
        return None
    word = data.strip(b'"')
    if word == DONE:
        return "done"
    if not word or word.startswith(b":") or word == b"null" or is_heartbeat(name):
        return "heartbeat"
    return "heartbeat" if word.lower() in _WORDS else None


def split_payloads(data: bytes, *, unfinished: bool = False) -> list[bytes]:
    """Return the payloads in the data of an event: the data itself, or each of several lines that are one value each.

    Args:
        data: The data, without white space around it.
        unfinished: Whether the stream ended before the event's blank line. If the last payload is torn, it does not count
            then.
    """
    payloads = [data]
    if _LF in data and not is_value(data):
        lines = [line for line in map(bytes.strip, data.split(_LF)) if line]
        # A look at the first line is enough: what is wrong with a later one is told behind the payloads before it.
        if len(lines) <= _MAX_LINES and (is_value(lines[0]) or word_of(lines[0], "")):
            payloads = lines
    if unfinished and not _counts(payloads[-1]):
        payloads.pop()
    return payloads


def _counts(payload: bytes) -> bool:
    """Whether the last payload of a stream is whole, or holds an error behind something torn."""
    return (
        payload.strip(b'"') == DONE
        or is_object(first_of(loads_or_none(payload)))
        or find_glued_error(payload) is not None
    )


def payloads_of_ignored(lines: bytes) -> list[Payload]:
    """Return the payloads in lines that are no part of an event stream: an error, JSON, or nothing that can be decoded."""
    field, _, value = lines.partition(b":")
    if field.strip().lower() == b"error":
        value = value.strip()
        return [] if value in _NO_ERROR else [(value, "error")]
    text = lines.strip()
    return [(each, "") for each in split_payloads(text, unfinished=True)] if _OBJECT.match(text) else []


def is_value(data: bytes) -> bool:
    """Whether data is one JSON value, as the tolerant decoder takes it."""
    try:
        _decode_raw(data)
    except DECODE_ERRORS:
        return loads_or_none(data) is not None
    return True


def is_torn(data: bytes) -> bool:
    """Whether data is the beginning of a JSON object."""
    try:
        _decode_raw(data)
    except DECODE_ERRORS as error:
        # msgspec tells it in no other way than by this text.
        return data.startswith(b"{") and "truncated" in str(error)
    return False


def _is_plain(data: bytes) -> bool:
    """Whether a payload that brings usage and no choices holds nothing else: nearly every stream has one such payload."""
    return b'"choices"' in data and not any(map(data.__contains__, _SPEAKING))


class PayloadDecoder:
    """Decodes the payloads of one stream, and remembers what that takes.

    Args:
        limits: Limits on what a server may send.
        strict: Refuse invalid UTF-8.
        skip: Pass over payloads that are no chunks.
        n: Number of choices that were asked for; None accepts any index.

    Attributes:
        anomalies: Number of payloads that were repaired or passed over.
        answered: Whether a payload had a choice.
        indices: The indices that a choice may have; None if any.
        call_indices: The indices that a tool call may have.
        torn: The error of a torn event, until it is known whether the next one is an error of the server that explains it.
        surrogates: Joins surrogate pairs that are cut between two chunks.
    """

    __slots__ = ("_api", "_choiceless", "_elsewhere", "_skip", "_spoken", "_strict", "anomalies",
                 "answered", "call_indices", "indices", "surrogates", "torn")  # fmt: skip

    def __init__(self, limits: Limits, *, strict: bool, skip: bool, n: int | None) -> None:
        self.indices = None if n is None else range(max(n, limits.choices))
        self.call_indices = range(limits.tool_calls)
        self._strict = strict
        self._skip = skip
        self.surrogates = SurrogateJoiner()
        self._elsewhere: TextElsewhere | None = None  # few streams need one
        self.anomalies = 0
        self.answered = False
        self._spoken = False  # whether a delta held a part of an answer
        # The first payload without choices that was no heartbeat: its beginning, and the API that it is of.
        self._choiceless = b""
        self._api = ""
        self.torn: StreamProtocolError | None = None

    def decode(self, data: bytes, name: str, *, number: int, spoken: bool) -> ChatCompletionChunk | None:
        """Decode one payload; None if it is no chunk and does no harm.

        Args:
            data: The payload.
            name: Name of its event. An event named ``error`` is one, whatever its data.
            number: Number of the payload in the stream, for errors.
            spoken: Whether deltas that this object has not seen have brought a part of the answer.

        Raises:
            StreamServerError: If the payload is an error.
            StreamProtocolError: If it is not a chunk.
        """
        if name == "error":
            raise server_error(parse_error(data))
        typed: ChatCompletionChunk | None = None
        try:
            typed = _decode(data)
        except DECODE_ERRORS:
            pass
        if (
            typed is not None
            and typed._error is None
            and (typed.choices or (typed.usage is not None and _is_plain(data)))
            and self._accept(typed, data)
        ):
            return typed
        body: Any = None
        problem = ""
        try:
            if self._strict:
                data.decode()
            body = loads(data)
        except DECODE_ERRORS as refused:
            problem = describe_decode_error(refused)
        found = find_glued_error(data) if problem else identify(body, name)
        if isinstance(found, ErrorBody):
            raise server_error(found)
        if isinstance(found, OtherAPI) or (found in {"heartbeat", "unknown"} and is_object(body)):
            self.anomalies += not is_heartbeat(name)
            if found != "heartbeat":
                self._note_choiceless(data, found.name if isinstance(found, OtherAPI) else "")
            return None
        if not problem:
            if typed is not None and self._accept(typed, data):
                return typed
            try:
                return self._repair(body, data, typed, spoken=spoken)
            except DECODE_ERRORS as refused:
                problem = describe_decode_error(refused)
        if self._skip:
            self.anomalies += 1
        else:
            self._refuse(data, problem, number)
        return None

    def _accept(self, chunk: ChatCompletionChunk, data: bytes) -> bool:
        """Normalize a chunk of the typed decoder; return False if its payload may hold more than the chunk does."""
        for choice in chunk.choices:
            self.normalize(choice)
        silent = has_silent_choice(chunk)
        if silent and may_hide_text(data, "delta"):
            return False
        if silent or not (self.answered and self._spoken):
            self._note(chunk, data, spoken=not silent)
        if self.surrogates.high:
            self.surrogates.join(chunk)
        return True

    def _repair(
        self, body: Any, data: bytes, typed: ChatCompletionChunk | None, *, spoken: bool
    ) -> ChatCompletionChunk:
        """Convert a payload that was decoded to plain data."""
        if self._elsewhere is None:
            self._elsewhere = TextElsewhere()
        moved = self._elsewhere.take(body, spoken=spoken or self._spoken)
        chunk = to_chunk(body)
        for choice in chunk.choices:
            self.normalize(choice)
        self.surrogates.join(chunk)
        self._note(chunk, data, spoken=not (moved or has_silent_choice(chunk)))
        self.anomalies += moved or typed is None or typed.usage != chunk.usage
        return chunk

    def _note(self, chunk: ChatCompletionChunk, data: bytes, *, spoken: bool) -> None:
        """Note what has been answered."""
        if chunk.choices:
            self.answered = True
            self._spoken = self._spoken or spoken
        else:
            self._note_choiceless(data)

    def _note_choiceless(self, data: bytes, api: str = "") -> None:
        """Note what the stream is made of, if it turns out to have no choice."""
        if not self._choiceless or (api and not self._api):
            self._choiceless = data[:_SHOWN]
            self._api = api

    def _refuse(self, data: bytes, problem: str, number: int) -> None:
        """Raise the error of a payload that is no chunk; if the payload is torn, keep the error for now."""
        beginning = data[:_SHOWN].decode("utf-8", "replace")
        error = StreamProtocolError(
            f"event {number} of the stream is not a chat completion chunk: {escape(problem)}; "
            f"it begins with {escape(beginning)!r}",
            body=beginning,
            events=number,
        )
        if not is_torn(data):
            raise error
        self.torn = error

    def unanswered(self, number: int) -> StreamProtocolError | None:
        """Return the error of a stream that ended without a choice; None if there was one, or nothing but heartbeats.

        Args:
            number: Number of payloads in the stream.
        """
        if self.answered or not self._choiceless:
            return None
        beginning = self._choiceless.decode("utf-8", "replace")
        what = (
            f"the stream is of {self._api}, not of chat completions"
            if self._api
            else "the stream has no choices"
        )
        return StreamProtocolError(
            f"{what}: an event of it begins with {escape(beginning)!r}",
            body=beginning,
            events=number,
        )

    def normalize(self, choice: ChunkChoice) -> None:
        """Bring a choice to its documented shape; refuse indices beyond the limits."""
        normalize_message(choice.delta)
        choice.finish_reason = normalize_finish_reason(choice.finish_reason)
        self.check_indices(choice)

    def check_indices(self, choice: ChunkChoice) -> None:
        """Refuse an index that is negative or beyond `Limits`; without ``n``, accept any.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If an index of a choice or tool call is beyond its limit.
        """
        if self.indices is None:
            return
        if choice.index not in self.indices:
            raise choice_index_error(choice.index, len(self.indices))
        for call in choice.delta.tool_calls or ():
            if call.index is not None and call.index not in self.call_indices:
                raise call_index_error(choice.index, call.index, len(self.call_indices))
