"""JSON as servers write it, to plain data."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeGuard, cast

import msgspec

from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChoiceDelta,
    ChoiceLogprobs,
    CompletionUsage,
)

_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST_INT = 18  # digits: what fits 64 bits; longer ones are nobody's index or count


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def well_formed(text: str) -> str:
    """Join surrogate pairs; replace lone surrogates by U+FFFD, so that the text encodes to UTF-8."""
    if _SURROGATES.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _int(digits: str) -> float:
    return int(digits) if len(digits) <= _LONGEST_INT else math.inf


def _constant(_name: str) -> float:
    return math.inf  # NaN and the infinities are not JSON


def loads(data: bytes) -> Any:
    """Decode JSON as servers write it: bad UTF-8 is replaced.

    What is no number for JSON, or none that anything counts with, becomes an infinity: NaN, Infinity,
    1e999, whole numbers of more than 18 digits.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deep.
    """
    return json.loads(data.decode("utf-8", "replace"), parse_int=_int, parse_constant=_constant)


# What a typed decoder raises; msgspec lets the last two through.
REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# A surrogate pair may be cut between two deltas: these are left for who sees both.
_PIECES = ("content", "reasoning_content", "refusal")
_VERY_UNLIKELY = -9999.0  # the API's own way to write a log probability of minus infinity


def to_completion(body: Any) -> ChatCompletion:
    """Convert a decoded completion, with repairs.

    Raises:
        msgspec.ValidationError: If it is none.
    """
    _repair(body, "message")
    known = clean(body)
    if is_object(known):
        for name in ("@request_id", "@rate_limits", "@attempts"):
            known.pop(name, None)  # the session's own names for its fields
    return msgspec.convert(known, ChatCompletion, strict=False)


def to_chunk(body: Any) -> ChatCompletionChunk:
    """Convert a decoded chunk, with repairs; surrogates in text are left to the caller.

    Raises:
        msgspec.ValidationError: If it is none.
    """
    _repair(body, "delta")
    texts = [_take_texts(choice) for choice in _choices(body)]
    chunk = msgspec.convert(clean(body), ChatCompletionChunk, strict=False)
    for choice, kept in zip(chunk.choices, texts, strict=True):
        for name, text in kept.items():
            setattr(choice.delta, name, text)
        settle(choice.delta)
        choice.finish_reason = choice.finish_reason or None
    return chunk


def _take_texts(choice: Any) -> dict[str, str]:
    delta = choice.get("delta") if is_object(choice) else None
    if not is_object(delta):
        return {}
    return {name: delta.pop(name) for name in _PIECES if isinstance(delta.get(name), str)}


def settle(message: ChatCompletionMessage | ChoiceDelta) -> None:
    """Bring reasoning to one name, and an empty list of tool calls to None."""
    if message._reasoning is not None:  # noqa: SLF001  # private to the package
        if message.reasoning_content is None:
            message.reasoning_content = message._reasoning  # noqa: SLF001  # likewise
        message._reasoning = None  # noqa: SLF001  # likewise
    if not message.tool_calls:
        message.tool_calls = None


def _repair(body: Any, part: str) -> None:
    """Bring a reply to its documented shape, in place: only what is known to occur."""
    if not is_object(body):
        return
    for name in ("id", "model", "object", "system_fingerprint", "service_tier"):
        keep_text(body, name)
    keep_number(body, "created")
    _repair_usage(body)
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
    keep_text(choice, "finish_reason")
    choice["logprobs"] = _repaired_logprobs(clean(choice.get("logprobs")))
    if is_object(choice.get(part)):
        _repair_message(choice[part])


def _repaired_logprobs(logprobs: Any) -> ChoiceLogprobs | None:
    if is_object(logprobs):
        for entries in (logprobs.get("content"), logprobs.get("refusal")):
            _repair_entries(entries)
    try:
        return msgspec.convert(logprobs, ChoiceLogprobs | None, strict=False)
    except msgspec.ValidationError:
        return None  # other shapes, of servers with an API of their own


def _repair_entries(entries: Any) -> None:
    for entry in cast("list[Any]", entries) if isinstance(entries, list) else ():
        if is_object(entry):
            if "logprob" in entry and entry["logprob"] is None:
                entry["logprob"] = _VERY_UNLIKELY
            if entry.get("top_logprobs") is None:
                entry.pop("top_logprobs", None)
            _repair_entries(entry.get("top_logprobs"))


def _repair_message(message: dict[str, Any]) -> None:
    for name in ("role", "reasoning_content", "reasoning", "refusal"):
        keep_text(message, name)
    reasoning = message.pop("reasoning", None)
    if reasoning is not None:
        message.setdefault("reasoning_content", reasoning)
    for name in ("annotations", "reasoning_details", "content_parts"):
        if not isinstance(message.get(name), list):
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
    """Keep content that is a list as it came, and its text where text is looked for."""
    text: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        elif is_object(part):
            if isinstance(part.get("text"), str):
                text.append(part["text"])
            thinking = part.get("thinking")
            if isinstance(thinking, str):
                thoughts.append(thinking)
            elif isinstance(thinking, list):
                inner = cast("list[Any]", thinking)
                thoughts.extend(p["text"] for p in inner if is_object(p) and isinstance(p.get("text"), str))
    message["content_parts"] = parts
    message["content"] = "".join(text) if text else None
    if thoughts and message.get("reasoning_content") is None:
        message["reasoning_content"] = "".join(thoughts)


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
    for details in (usage, usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")):
        if not is_object(details):
            continue
        if math.inf in details.values():
            body["usage"] = None  # a count that is no number makes the others doubtful
            return
        for name in [name for name, value in details.items() if value is None]:
            del details[name]
    try:
        body["usage"] = msgspec.convert(usage, CompletionUsage, strict=False)
    except msgspec.ValidationError:
        # Other shapes: keep the counts that are numbers.
        kept = {name: value for name, value in usage.items() if type(value) is int}
        body["usage"] = msgspec.convert(kept, CompletionUsage) if kept else None


def _keep_index(body: dict[str, Any]) -> None:
    index = body.get("index")
    if index is None:
        body.pop("index", None)
    elif index == math.inf:
        raise msgspec.ValidationError("an index is no number of 64 bits")


def keep_text(body: dict[str, Any], name: str) -> None:
    """Make a field text, in place; drop it if it is null or has an inside."""
    value = body.get(name)
    if value is None or isinstance(value, (dict, list)):
        body.pop(name, None)
    elif not isinstance(value, str):
        body[name] = str(value)


def keep_number(body: dict[str, Any], name: str) -> None:
    """Make a field a whole number, in place; drop it if it is none."""
    value = body.get(name)
    if (isinstance(value, float) and math.isfinite(value)) or (
        isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value)
    ):
        body[name] = int(value)
    elif type(value) is not int:
        body.pop(name, None)


def clean(value: Any) -> Any:
    """Make every string of decoded JSON well formed, and every number finite or None."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [clean(item) for item in cast("list[Any]", value)]
    if is_object(value):
        return {well_formed(name): clean(item) for name, item in value.items()}
    return value
