"""Converts messages from the shapes that servers send to the documented shape.

Theory of operation
===================

The typed decoder of msgspec refuses a message if any known field has the wrong type. Servers send many such fields that
do no harm: an id that is a number, counts that are null, content as a list of parts. In that case `loads` decodes the
message once more, to plain data; the functions below repair the plain data in place; and `msgspec.convert` checks it.

The repairs cover shapes that servers are known to send. A field on which nothing depends is dropped if it cannot be
repaired. A field on which the completion depends, such as an index or the text, is left as it is, so that `convert`
refuses the message.
"""

from __future__ import annotations

import json
import math
import re
from operator import attrgetter
from typing import Any, Literal, TypeGuard, cast

import msgspec

from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    CompletionUsage,
)
from ..types.messages import ANSWER_FIELDS, TEXT_FIELDS
from ..types.nesting import MAX_VALUES, UNLIMITED, check_json, decode_json

# The errors of decoding. Those of msgspec, JSONDecodeError and UnicodeDecodeError are ValueErrors. Although the depth of
# JSON is limited, msgspec raises RecursionError if the caller's stack is nearly full.
DECODE_ERRORS = (ValueError, RecursionError)

# In JSON of at most this many bytes, invalid UTF-8 is replaced, and any number of halves of surrogate pairs is accepted. In
# longer JSON, replacing all of them would take too long.
_MAX_REPLACED = 1024 * 1024
_MAX_SURROGATES = 100_000  # maximum number of halves of surrogate pairs in longer JSON
# One call in C reads all of these fields of a message or delta.
_answer_of = attrgetter(*ANSWER_FIELDS)
# The names of the fields of a reply that are text, and of the fields of a message that are lists. The annotations show both.
_REPLY_TEXTS = [
    name for name, kind in ChatCompletionChunk.__annotations__.items() if kind in {"str", "str | None"}
]
_LISTS = [name for name, kind in ChoiceDelta.__annotations__.items() if kind.startswith("list[")]
DOCUMENTED_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})
"""The documented values of a finish_reason. Nearly every value is one of these, and needs no other test."""
# Values that some servers send for a finish_reason of null, in lower case.
_NOT_FINISHED = frozenset({"", "null", "none", "nil", "undefined", "false", "0"})

_ELSEWHERE = {"delta": b'"message"', "message": b'"delta"'}
# Match a surrogate pair, and half of a pair, in the bytes that the error handler ``surrogatepass`` makes of them.
_PAIR = re.compile(rb"\xed[\xa0-\xaf].\xed[\xb0-\xbf].", re.DOTALL)
_HALF = re.compile(rb"\xed[\xa0-\xbf].", re.DOTALL)
# The escape of half a surrogate pair has these two bytes after its backslash, and so have the escapes of few other characters.
# A search for three bytes would take longer.
_HALVES = (b"ud", b"uD")
_MAX_DIGITS = 18  # maximum digits of a whole number; every number of 18 digits fits in 64 bits
VERY_UNLIKELY = -9999.0  # how the API writes a log probability of minus infinity


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def first_of(body: Any) -> Any:
    """Return the first item of a list, and any other value unchanged: some servers send one object in a list."""
    if isinstance(body, list):
        items = cast("list[Any]", body)
        return items[0] if items else items
    return body


def well_formed(text: str) -> str:
    """Join surrogate pairs, and replace lone surrogates by U+FFFD, so that the text can be encoded."""
    try:
        text.encode()  # fails for surrogates, and takes less time than a search for them
    except UnicodeEncodeError:
        # UTF-16 joins pairs by itself, but takes ten times as long for a long text.
        encoded = _PAIR.sub(_joined, text.encode("utf-8", "surrogatepass"))
        return _HALF.sub("\ufffd".encode(), encoded).decode()
    return text


def _joined(pair: re.Match[bytes]) -> bytes:
    text = pair.group().decode("utf-8", "surrogatepass")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode()


def _int(digits: str) -> float:
    # `int` refuses more than 4,300 digits, and its time is quadratic in the number of digits.
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _constant(_name: str) -> float:
    return math.inf  # for NaN, Infinity and -Infinity


JSON_OPTIONS: dict[str, Any] = {"parse_int": _int, "parse_constant": _constant}


def loads(data: bytes, max_values: int = MAX_VALUES) -> Any:
    """Decode JSON as servers write it, to plain data. Invalid UTF-8 becomes U+FFFD, unless the JSON is very long.

    Numbers that are not valid JSON or too large to be of use become infinity: NaN, Infinity, 1e999, whole numbers of more
    than 18 digits. `clean` turns infinity into None; before that, the repairs can tell such a number from null.

    Args:
        data: The JSON.
        max_values: How many values it may have; 0 if `check_json` has checked the data. This decoder takes ten times as
            long for each value as the typed decoder.

    Raises:
        ValueError: If the data is not JSON, is nested too deep, or has too many values.
    """
    if max_values:
        check_json(data, max_values)
    short = len(data) <= _MAX_REPLACED
    # The backslashes are counted first, because one byte is counted in less time than two. Nearly no JSON has so many of them.
    if not short and data.count(b"\\") > _MAX_SURROGATES and any(_has_many(data, half) for half in _HALVES):
        raise ValueError("too many halves of surrogate pairs")
    return json.loads(data.decode("utf-8", "replace" if short else "strict"), **JSON_OPTIONS)


def _has_many(data: bytes, half: bytes) -> bool:
    return len(data) - len(data.replace(half, b"", _MAX_SURROGATES)) == len(half) * _MAX_SURROGATES


def loads_or_none(data: bytes) -> Any:
    """Decode JSON as `loads` does; None if the data is not JSON."""
    try:
        return loads(data)
    except DECODE_ERRORS:
        return None


def decode_body(content: bytes) -> Any:
    """Decode JSON that has been accepted before to plain data that can be encoded again."""
    try:
        return decode_json(content)
    except DECODE_ERRORS:
        return clean(loads(content, UNLIMITED))


def to_completion(body: Any) -> ChatCompletion:
    """Convert plain data to a completion; the data is changed.

    Raises:
        msgspec.ValidationError: If the data is not a completion.
    """
    for choice in _choices(body):
        if is_object(choice):
            take_from_elsewhere(choice, "message")
    _repair(body, "message")
    known = clean(body)
    if is_object(known):
        # The encoded names of fields that only the session sets.
        for name in ("@request_id", "@rate_limits", "@attempts"):
            known.pop(name, None)
    return msgspec.convert(known, ChatCompletion, strict=False)


def to_chunk(body: Any) -> ChatCompletionChunk:
    """Convert plain data to a chunk; the data is changed. The caller normalizes its choices.

    The text of deltas keeps its surrogates: a pair may be cut between two deltas, and only the caller sees both.

    Raises:
        msgspec.ValidationError: If the data is not a chunk.
    """
    _repair(body, "delta")
    texts = [_take_texts(choice) for choice in _choices(body)]
    chunk = msgspec.convert(clean(body), ChatCompletionChunk, strict=False)
    for choice, kept in zip(chunk.choices, texts, strict=True):
        for name, text in kept.items():
            setattr(choice.delta, name, text)
    return chunk


def _take_texts(choice: Any) -> dict[str, str]:
    delta = choice.get("delta") if is_object(choice) else None
    if not is_object(delta):
        return {}
    return {name: delta.pop(name) for name in TEXT_FIELDS if isinstance(delta.get(name), str)}


def normalize_finish_reason(reason: str | None) -> str | None:
    """Return a finish_reason; None if its text means that there is no finish_reason."""
    return None if reason is None or reason.strip().lower() in _NOT_FINISHED else reason


def is_silent(message: ChatCompletionMessage | ChoiceDelta) -> bool:
    """Whether a message has no part of an answer; then the answer may be in another place."""
    return not (message.content or message._reasoning or any(_answer_of(message)))


def has_silent_choice(chunk: ChatCompletionChunk) -> bool:
    """Whether a choice of a chunk has no part of an answer."""
    return any([is_silent(choice.delta) for choice in chunk.choices])  # noqa: C419  # nearly always one; faster


def may_hide_text(data: bytes, part: Literal["delta", "message"]) -> bool:
    """Whether JSON whose ``delta`` or ``message`` is silent may have text in a field that the typed decoder ignores.

    Args:
        data: One event, a whole reply, or a block of events.
        part: Where the text should be.
    """
    return b'"text"' in data or _ELSEWHERE[part] in data


class SurrogateJoiner:
    r"""Joins surrogate pairs that a server cut between two deltas.

    JSON may write a character as two escapes, ``\ud83d\ude00``, and some servers put the two into two events. The typed
    decoder refuses half a pair, so that such events always take the tolerant path.

    Attributes:
        high: High surrogates at the end of a delta, by choice and field. The other half is expected in the next delta of
            the same field; deltas of other choices and fields may come between.
    """

    def __init__(self) -> None:
        self.high: dict[tuple[int, str], str] = {}

    def join(self, chunk: ChatCompletionChunk) -> None:
        """Complete a pair at the start of a delta's text, hold back a high surrogate at its end, replace lone halves."""
        for choice in chunk.choices:
            delta = choice.delta
            finished = choice.finish_reason is not None  # after a finish_reason no other half is expected
            for name in TEXT_FIELDS:
                key = (choice.index, name)
                text = getattr(delta, name)
                if not text and not finished:
                    continue
                text = self.high.pop(key, "") + (text or "")
                if not text:
                    continue
                if "\ud800" <= text[-1] <= "\udbff" and not finished:
                    self.high[key] = text[-1]
                    text = text[:-1]
                setattr(delta, name, well_formed(text))

    def release(self) -> list[ChatCompletionChunk]:
        """Return chunks with U+FFFD for the high surrogates whose other half never came."""
        chunks: list[ChatCompletionChunk] = []
        for index, name in self.high:
            delta = ChoiceDelta()
            setattr(delta, name, "\ufffd")
            chunks.append(ChatCompletionChunk(choices=[ChunkChoice(index=index, delta=delta)]))
        self.high.clear()
        return chunks


class TextElsewhere:
    """Finds the text of a stream if it is not in the deltas: in ``message``, in pieces or whole, or in ``text``.

    Servers that send deltas may also send the whole message, at the end or beside each delta; it adds nothing. A server
    that sends pieces in another place may end with the whole text, so the pieces are kept for a comparison.
    """

    def __init__(self) -> None:
        self._pieces: dict[str, list[str]] = {}  # the pieces of each choice, by its index
        self._sizes: dict[str, int] = {}  # characters of all pieces of a choice

    def take(self, body: dict[str, Any], *, spoken: bool) -> bool:
        """Move the text of a chunk that is plain data into its deltas; return whether there was any.

        Args:
            body: The chunk, whose choices are changed.
            spoken: Whether any delta had a part of the answer.
        """
        found = False
        for choice in _choices(body):
            if spoken or not is_object(choice) or not take_from_elsewhere(choice, "delta"):
                continue
            found = True
            delta = choice["delta"]
            content = delta.get("content")
            if not isinstance(content, str):
                continue
            index = str(choice.get("index"))
            pieces = self._pieces.setdefault(index, [])
            size = self._sizes.get(index, 0)
            # The lengths are compared first, because joining all pieces for each piece would take too long.
            whole = len(pieces) > 1 and len(content) == size and choice.get("finish_reason")
            if whole and content == "".join(pieces):
                delta["content"] = None
            else:
                pieces.append(content)
                self._sizes[index] = size + len(content)
        return found


def take_from_elsewhere(choice: dict[str, Any], part: Literal["delta", "message"]) -> bool:
    """Fill a silent delta or message from another field of its choice; return whether such a field was found.

    Args:
        choice: A choice as plain data, which is changed.
        part: The field that should have the answer: ``delta`` in a stream, else ``message``.
    """
    here, other = choice.get(part), choice.get("message" if part == "delta" else "delta")
    if _says_anything(here):
        return False
    if _says_anything(other):
        choice[part] = other
        return True
    known = here if is_object(here) else {}
    text = choice.get("text") or known.get("text")
    if isinstance(text, str):
        choice[part] = {**known, "content": text}
        return True
    return False


def _says_anything(message: Any) -> bool:
    return is_object(message) and any(message.get(name) for name in ("reasoning", *ANSWER_FIELDS))


# Repairs, in place


def _repair(body: Any, part: str) -> None:
    if not is_object(body):
        return
    for name in _REPLY_TEXTS:
        keep_text(body, name)
    keep_number(body, "created")
    if not is_object(body.get("usage")):
        # Some servers put usage into the choice, some into a field of their own.
        holders = [holder for holder in (*_choices(body)[:1], body.get("x_groq")) if is_object(holder)]
        body["usage"] = next((usage for each in holders if is_object(usage := each.get("usage"))), None)
    _repair_usage(body)
    body.pop("x_groq", None)
    if body.get("choices") is None:
        body.pop("choices", None)
    for choice in _choices(body):
        if is_object(choice):
            _repair_choice(choice, part)


def _choices(body: Any) -> list[Any]:
    choices = body.get("choices") if is_object(body) else None
    return cast("list[Any]", choices) if isinstance(choices, list) else []


def _repair_choice(choice: dict[str, Any], part: str) -> None:
    _keep_index(choice)
    if choice.get(part) is None:
        choice.pop(part, None)
    choice.pop("usage", None)
    if not choice.get("finish_reason"):  # the value is null, "", false or 0
        choice.pop("finish_reason", None)
    keep_text(choice, "finish_reason")
    choice["logprobs"] = _repaired_logprobs(choice.get("logprobs"))
    if is_object(choice.get(part)):
        _repair_message(choice[part])


def _repaired_logprobs(logprobs: Any) -> ChoiceLogprobs | None:
    """Convert log probabilities that were decoded to plain data; None if they have the shape of another API."""
    logprobs = clean(logprobs)
    if is_object(logprobs):
        for entries in (logprobs.get("content"), logprobs.get("refusal")):
            _repair_entries(entries)
    try:
        return msgspec.convert(logprobs, ChoiceLogprobs | None, strict=False)
    except msgspec.ValidationError:
        return None


def _repair_entries(entries: Any) -> None:
    for entry in cast("list[Any]", entries) if isinstance(entries, list) else ():
        if is_object(entry):
            if "logprob" in entry and entry["logprob"] is None:
                entry["logprob"] = VERY_UNLIKELY
            if entry.get("top_logprobs") is None:
                entry.pop("top_logprobs", None)
            _repair_entries(entry.get("top_logprobs"))


def _repair_message(message: dict[str, Any]) -> None:
    for name in ("role", "reasoning", *TEXT_FIELDS):
        if name != "content":  # content may be a list of parts
            keep_text(message, name)
    message.setdefault("reasoning_content", message.pop("reasoning", None))
    for name in _LISTS:
        value = message.get(name)
        if is_object(value):
            message[name] = [value] if value else None
        elif name != "tool_calls" and not isinstance(message.get(name), list):
            message.pop(name, None)
    parts = message.get("content")
    if is_object(parts):
        parts = [parts]
    if isinstance(parts, list):
        _join_parts(message, cast("list[Any]", parts))
    calls = message.get("tool_calls")
    for call in cast("list[Any]", calls) if isinstance(calls, list) else ():
        if is_object(call):
            _repair_call(call)
    function = message.get("function_call")
    if is_object(function):
        _repair_function(function)


def _join_parts(message: dict[str, Any], parts: list[Any]) -> None:
    """Keep a list of parts in ``content_parts``, and put its text into ``content`` and ``reasoning_content``."""
    text: list[str] = []
    reasoning: list[str] = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        elif is_object(part):
            if isinstance(part.get("text"), str):
                text.append(part["text"])
            thinking = part.get("thinking")
            if isinstance(thinking, str):
                reasoning.append(thinking)
            elif isinstance(thinking, list):
                inner = cast("list[Any]", thinking)
                reasoning.extend(p["text"] for p in inner if is_object(p) and isinstance(p.get("text"), str))
    message["content_parts"] = parts
    message["content"] = "".join(text) if text else None
    if reasoning and message.get("reasoning_content") is None:
        message["reasoning_content"] = "".join(reasoning)


def _repair_call(call: dict[str, Any]) -> None:
    _keep_index(call)
    for name in ("id", "type"):
        keep_text(call, name)
    if is_object(call.get("function")):
        _repair_function(call["function"])
    else:
        call.pop("function", None)


def _repair_function(function: dict[str, Any]) -> None:
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        function["arguments"] = msgspec.json.encode(clean(arguments)).decode()
    for name in ("name", "arguments"):
        keep_text(function, name)


def _repair_usage(body: dict[str, Any]) -> None:
    usage = body.get("usage")
    if not is_object(usage):
        body.pop("usage", None)
        return
    for counts in (usage, usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")):
        if not is_object(counts):
            continue
        if math.inf in counts.values():
            body["usage"] = None  # if a count is not a number, the other counts may be wrong, too
            return
        for name in [name for name, value in counts.items() if value is None]:
            del counts[name]
    try:
        body["usage"] = msgspec.convert(usage, CompletionUsage, strict=False)
    except msgspec.ValidationError:
        # The usage has an unknown shape: keep only the counts at its top level.
        kept = {name: value for name, value in usage.items() if type(value) is int}
        body["usage"] = msgspec.convert(kept, CompletionUsage) if kept else None


def _keep_index(body: dict[str, Any]) -> None:
    index = body.get("index")
    if index is None:
        body.pop("index", None)
    elif index == math.inf:
        # `clean` would turn the index into None, and the text would be added to choice 0.
        raise msgspec.ValidationError("an index does not fit in 64 bits")


def keep_text(body: dict[str, Any], name: str) -> None:
    """Turn a field into text, in place; drop it if it is null, an object or a list."""
    value = body.get(name)
    if value is None or isinstance(value, (dict, list)):
        body.pop(name, None)
    else:
        body[name] = str(value)


def keep_number(body: dict[str, Any], name: str) -> None:
    """Turn a field into a whole number, in place; drop it if that is not possible."""
    value = body.get(name)
    if (isinstance(value, float) and math.isfinite(value)) or (
        isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value)
    ):
        body[name] = int(value)
    elif type(value) is not int:
        body.pop(name, None)


def clean(value: Any) -> Any:
    """Return decoded JSON with well-formed strings, and with None for numbers that are not finite."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [clean(item) for item in cast("list[Any]", value)]
    if is_object(value):
        return {well_formed(name): clean(item) for name, item in value.items()}
    return value
