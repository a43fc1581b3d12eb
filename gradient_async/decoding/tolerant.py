"""The tolerant path of `ChunkDecoder`: splits events into payloads, and decodes each payload to a chunk.

Theory of operation
===================

`sse.EventDecoder` follows the standard, but servers do not always follow it. Three functions handle the differences:

- If a server forgets a blank line, two events become one. `split_payloads` returns several payloads if the lines of an
  event are not one JSON value together, but one value each.
- Lines that the standard ignores may have an error, in a field named ``error`` or as JSON without a field.
  `payloads_of_ignored` returns it.
- Data may be only a word: the end of the stream, or a heartbeat. `word_of` recognizes it.

All other data are JSON. `PayloadDecoder` decodes them with the typed decoder. If the typed decoder refuses a payload, or
finds no answer in it, the payload is decoded once more, to plain data:

    decode ──> typed ──┬─> _accept       a chunk with an answer
                       └─> identify ──┬─> an error, or not JSON: raised
                         plain data   ├─> a heartbeat, another API or unknown: skipped and counted
                                      ├─> _accept, for example a chunk with usage
                                      └─> _repair, a chunk in another shape

Skipped payloads do no harm in a stream that also has choices: gateways insert events of their own, and even of other APIs.
If a stream has no choice at all, `unanswered` returns an error, which shows the first payload that was no heartbeat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from ..config import Limits
from ..errors import StreamProtocolError, call_index_error, choice_index_error, escape
from ..types import ChatCompletionChunk, ChoiceLogprobs, ChunkChoice
from ..types.messages import normalize_message
from ..types.nesting import UNLIMITED, TooManyValuesError, has_long_number, max_light
from .choiceless import OtherAPI, identify, is_heartbeat
from .error_bodies import ErrorBody, find_glued_error, parse_error, server_error
from .logprobs import give_back, take_logprobs
from .normalize import (
    DECODE_ERRORS,
    SurrogateJoiner,
    TextElsewhere,
    first_of,
    has_silent_choice,
    is_object,
    loads,
    loads_or_none,
    may_hide_text,
    normalize_finish_reason,
    to_chunk,
)

# The data to decode, and the name of the event.
Payload: TypeAlias = tuple[bytes, str]

DONE = b"[DONE]"
_LF = b"\n"
_WORDS = frozenset({b"ping", b"heartbeat", b"keepalive", b"keep-alive"})  # data that is a heartbeat
_SHOWN = 200  # bytes of a bad payload that an error shows
_MAX_DEEP = 1024 * 1024  # bytes of deep JSON that `is_torn` checks; checking more would block the event loop
_MAX_LINES = 10_000  # maximum payloads of one event; more would block the event loop
_OBJECT = re.compile(rb"\[?\s*\{")
_NO_ERROR = frozenset({b"", b"null", b"{}", b"0", b"false", b'""'})
# Parts of the names of fields in which `find_error` may find an error, in lower case, and without the places that may have an
# underscore.
_SPEAKING = (b"err", b'code"', b"status", b"success", b'detail"', b"message", b'msg"', b'title"', b'resp"', b"exception", b"fault",
             b'"ok"')  # fmt: skip
_decode = msgspec.json.Decoder(ChatCompletionChunk).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode  # checks the syntax without making objects


def word_of(data: bytes, name: str) -> Literal["done", "heartbeat"] | None:
    """Return what a word in place of JSON means; None if the data have to be decoded.

    Args:
        data: Data of an event, without white space around them. The word may be in quotation marks.
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
    """Return the payloads in the data of an event: all data together, or each line if each line is one JSON value.

    Args:
        data: The data, without white space around them.
        unfinished: Whether the stream ended before the blank line of the event. Then a last payload that is cut is left
            out.
    """
    payloads = [data]
    if 0 < data.count(_LF) < _MAX_LINES:
        lines = [*map(bytes.strip, data.split(_LF))]
        # Only the first line is checked. If it is a JSON value, all lines together are not one value. An error in a later line
        # is raised after the payloads before it. An empty line counts as a word.
        if is_value(lines[0]) or word_of(lines[0], ""):
            payloads = lines
    if unfinished and not _counts(payloads[-1]):
        payloads.pop()
    return payloads


def _counts(payload: bytes) -> bool:
    """Whether the last payload of a stream is whole, or ends with the error of a gateway."""
    return (
        payload.strip(b'"') == DONE
        or is_object(first_of(loads_or_none(payload)))
        or find_glued_error(payload) is not None
    )


def payloads_of_ignored(lines: bytes) -> list[Payload]:
    """Return the payloads in lines that do not belong to an event stream: an error, or JSON, or none."""
    field, _, value = lines.partition(b":")
    if field.strip().lower() == b"error":
        value = value.strip()
        return [] if value in _NO_ERROR else [(value, "error")]
    text = lines.strip()
    return [(each, "") for each in split_payloads(text, unfinished=True)] if _OBJECT.match(text) else []


def is_value(data: bytes) -> bool:
    """Whether data are one JSON value that the tolerant decoder accepts."""
    try:
        _decode_raw(data)
    except DECODE_ERRORS:
        return loads_or_none(data) is not None
    return True


def is_torn(data: bytes) -> bool:
    """Whether data are the beginning of a JSON object."""
    try:
        _decode_raw(data)
    except DECODE_ERRORS as error:
        # Only the text of msgspec's error shows that the data are cut.
        return data.startswith(b"{") and "truncated" in str(error)
    return False


def _is_plain(data: bytes) -> bool:
    """Whether a payload with usage and an empty list of choices has no sign of an error. Most streams end with one."""
    return b'"choices"' in data and not any(map(data.lower().__contains__, _SPEAKING))


class PayloadDecoder:
    """Decodes the payloads of one stream, and keeps the state between them.

    Args:
        limits: Limits on what a server may send.
        strict: Refuse invalid UTF-8.
        skip: Skip payloads that are not chunks.
        n: Number of choices that were asked for; None accepts any index.

    Attributes:
        anomalies: Number of payloads that were repaired or skipped.
        answered: Whether a payload had a choice.
        indices: The indices that a choice may have; None if any.
        call_indices: The indices that a tool call may have.
        torn: The error of an event that is cut. It is kept until the next event shows whether the server sent an error that
            explains the cut.
        surrogates: Joins surrogate pairs that are cut between two chunks.
    """

    __slots__ = ("_api", "_choiceless", "_elsewhere", "_max_light", "_max_values", "_skip", "_spoken", "_strict", "anomalies",
                 "answered", "call_indices", "indices", "surrogates", "torn")  # fmt: skip

    def __init__(self, limits: Limits, *, strict: bool, skip: bool, n: int | None) -> None:
        self.indices = None if n is None else range(max(n, limits.choices))
        self.call_indices = range(limits.tool_calls)
        self._max_values = limits.values or UNLIMITED
        self._max_light = max_light(self._max_values)
        self._strict = strict
        self._skip = skip
        self.surrogates = SurrogateJoiner()
        self._elsewhere: TextElsewhere | None = None  # made on first use, because few streams need it
        self.anomalies = 0
        self.answered = False
        self._spoken = False  # whether any delta had a part of the answer
        # The beginning of the first payload without choices that is not a heartbeat, and the API to which it belongs.
        self._choiceless = b""
        self._api = ""
        self.torn: StreamProtocolError | None = None

    def decode(self, data: bytes, name: str, *, number: int, spoken: bool) -> ChatCompletionChunk | None:
        """Decode one payload; return None if it is skipped.

        Args:
            data: The payload.
            name: Name of its event. An event named ``error`` is an error, whatever its data are.
            number: Number of the payload in the stream, for errors.
            spoken: Whether a delta that the fast path decoded had a part of the answer.

        Raises:
            StreamServerError: If the payload is an error.
            StreamProtocolError: If it is not a chunk.
            TooManyValuesError: If it has too many values.
        """
        if name == "error":
            raise server_error(parse_error(data))
        if len(data) <= self._max_light:
            return self._decode(data, name, number=number, spoken=spoken)
        taken: Sequence[ChoiceLogprobs | None] = ()
        problem = ""
        try:
            data, taken = take_logprobs(data, self._max_values)
        except TooManyValuesError:
            raise
        except ValueError as refused:  # the JSON is nested too deep; its values were not all counted
            problem = str(refused)
        if problem:
            glued = find_glued_error(data)
            if glued is not None:
                raise server_error(glued)
            self._refuse(data, problem, number, torn=len(data) <= _MAX_DEEP and is_torn(data))
            return None
        chunk = self._decode(data, name, number=number, spoken=spoken)
        if chunk is not None:
            give_back(chunk.choices, taken)
        return chunk

    def _decode(self, data: bytes, name: str, *, number: int, spoken: bool) -> ChatCompletionChunk | None:
        typed: ChatCompletionChunk | None = None
        try:
            if len(data) <= self._max_light or not has_long_number(data):
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
            body = loads(data, self._max_values if len(data) <= self._max_light else 0)
        except DECODE_ERRORS as refused:
            problem = str(refused)
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
                problem = str(refused)
        self._refuse(data, problem, number, torn=is_torn(data))
        return None

    def _accept(self, chunk: ChatCompletionChunk, data: bytes) -> bool:
        """Normalize a chunk of the typed decoder; return False if its payload may have text that the chunk lacks."""
        for choice in chunk.choices:
            self.normalize(choice)
        silent = has_silent_choice(chunk)
        if silent and may_hide_text(data, "delta"):
            return False
        if not (self.answered and self._spoken):
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
        """Note whether a chunk has choices, and whether they have a part of the answer."""
        if chunk.choices:
            self.answered = True
            self._spoken = self._spoken or spoken
        else:
            self._note_choiceless(data)

    def _note_choiceless(self, data: bytes, api: str = "") -> None:
        """Keep the beginning of a payload for the error of a stream without choices."""
        if not self._choiceless or (api and not self._api):
            self._choiceless = data[:_SHOWN]
            self._api = api

    def _refuse(self, data: bytes, problem: str, number: int, *, torn: bool) -> None:
        """Skip a payload that is not a chunk, or raise its error; if it is cut, keep the error in `torn` instead."""
        if self._skip:
            self.anomalies += 1
            return
        beginning = data[:_SHOWN].decode("utf-8", "replace")
        error = StreamProtocolError(
            f"event {number} of the stream is not a chat completion chunk: {escape(problem)}; "
            f"it begins with {escape(beginning)!r}",
            body=beginning,
            events=number,
        )
        if not torn:
            raise error
        self.torn = error

    def unanswered(self, number: int) -> StreamProtocolError | None:
        """Return the error of a stream without choices; None if there was a choice, or if there were only heartbeats.

        Args:
            number: Number of payloads in the stream.
        """
        if self.answered or not self._choiceless:
            return None
        beginning = self._choiceless.decode("utf-8", "replace")
        what = (
            f"the stream belongs to {self._api}, not to chat completions"
            if self._api
            else "the stream has no choices"
        )
        return StreamProtocolError(
            f"{what}: an event of it begins with {escape(beginning)!r}",
            body=beginning,
            events=number,
        )

    def normalize(self, choice: ChunkChoice) -> None:
        """Convert a choice to its documented shape; refuse indices beyond the limits."""
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
