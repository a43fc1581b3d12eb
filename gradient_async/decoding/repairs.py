"""The tolerant path: JSON as servers write it, brought to its documented shape."""

from __future__ import annotations

import json
import math
import re
from typing import Any, cast

import msgspec

from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChoiceDelta,
    ChoiceLogprobs,
    CompletionUsage,
)
from .faults import is_object

__all__ = [
    "REFUSED",
    "clean",
    "keep_number",
    "keep_text",
    "loads",
    "settle",
    "to_chunk",
    "to_completion",
    "well_formed",
]

# What a typed decoder raises; msgspec lets the last two through.
REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST_INT = 18  # digits: what fits 64 bits; longer ones are nobody's index or count
# A surrogate pair may be cut between two deltas: these are left for who sees both.
_PIECES = frozenset({"content", "reasoning_content", "reasoning", "refusal"})


def well_formed(text: str) -> str:
    """Join surrogate pairs; replace lone surrogates by U+FFFD, so that the text encodes to UTF-8."""
    if _SURROGATES.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _LONGEST_INT else None


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _no_constant(_name: str) -> None:
    return None  # NaN and the infinities are not JSON


def loads(data: bytes) -> Any:
    """Decode JSON as servers write it: bad UTF-8 replaced, NaN, infinities and absurd numbers as None.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deep.
    """
    return json.loads(
        data.decode("utf-8", "replace"), parse_int=_int, parse_float=_float, parse_constant=_no_constant
    )


def to_completion(body: Any) -> ChatCompletion:
    """Convert a decoded completion, with repairs.

    Raises:
        msgspec.ValidationError: If it is none.
    """
    _repair(body, "message")
    return msgspec.convert(clean(body), ChatCompletion, strict=False)


def to_chunk(body: Any) -> ChatCompletionChunk:
    """Convert a decoded chunk, with repairs; surrogates are left to the caller.

    Raises:
        msgspec.ValidationError: If it is none.
    """
    _repair(body, "delta")
    chunk = msgspec.convert(clean(body, spare=_PIECES), ChatCompletionChunk, strict=False)
    for choice in chunk.choices:
        settle(choice.delta)
    return chunk


def settle(message: ChatCompletionMessage | ChoiceDelta) -> None:
    """Bring reasoning to one name, and an empty list of tool calls to None."""
    if message._reasoning is not None:  # noqa: SLF001  # private to the package
        if message.reasoning_content is None:
            message.reasoning_content = message._reasoning  # noqa: SLF001
        message._reasoning = None  # noqa: SLF001
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
    choices = body.get("choices")
    for choice in cast("list[Any]", choices) if isinstance(choices, list) else ():
        if is_object(choice):
            _repair_choice(choice, part)


def _repair_choice(choice: dict[str, Any], part: str) -> None:
    if choice.get("index") is None:
        choice.pop("index", None)
    if choice.get(part) is None:
        choice.pop(part, None)
    keep_text(choice, "finish_reason")
    try:
        choice["logprobs"] = msgspec.convert(choice.get("logprobs"), ChoiceLogprobs | None, strict=False)
    except msgspec.ValidationError:
        choice["logprobs"] = None  # other shapes, of servers with an API of their own
    if is_object(choice.get(part)):
        _repair_message(choice[part])


def _repair_message(message: dict[str, Any]) -> None:
    for name in ("role", "reasoning_content", "reasoning", "refusal"):
        keep_text(message, name)
    for name in ("annotations", "reasoning_details", "content_parts"):
        if not isinstance(message.get(name), list):
            message.pop(name, None)
    parts = message.get("content")
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
    for name in ("id", "type", "index"):
        if call.get(name) is None:
            call.pop(name, None)
    if isinstance(call.get("id"), int):
        call["id"] = str(call["id"])
    if is_object(call.get("function")):
        _repair_function(call["function"])
    else:
        call.pop("function", None)


def _repair_function(function: dict[str, Any]) -> None:
    arguments = function.get("arguments")
    if isinstance(arguments, (dict, list)):
        function["arguments"] = msgspec.json.encode(arguments).decode()
    for name in ("name", "arguments"):
        if function.get(name) is None:
            function.pop(name, None)


def _repair_usage(body: dict[str, Any]) -> None:
    usage = body.get("usage")
    if not is_object(usage):
        body.pop("usage", None)
        return
    for details in (usage, usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")):
        if is_object(details):
            for name in [name for name, value in details.items() if value is None]:
                del details[name]
    try:
        body["usage"] = msgspec.convert(usage, CompletionUsage, strict=False)
    except msgspec.ValidationError:
        # Counts that are no numbers: keep those that are.
        kept = {name: value for name, value in usage.items() if type(value) is int}
        body["usage"] = (
            CompletionUsage(
                prompt_tokens=kept.get("prompt_tokens", 0),
                completion_tokens=kept.get("completion_tokens", 0),
                total_tokens=kept.get("total_tokens", 0),
            )
            if kept
            else None
        )


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
    if isinstance(value, float) or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value)):
        body[name] = int(value)
    elif type(value) is not int:
        body.pop(name, None)


def clean(value: Any, *, spare: frozenset[str] = frozenset()) -> Any:
    """Make every string of decoded JSON well formed, but for those that stand under a name to spare."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [clean(item, spare=spare) for item in cast("list[Any]", value)]
    if is_object(value):
        return {
            well_formed(name): item if name in spare and isinstance(item, str) else clean(item, spare=spare)
            for name, item in value.items()
        }
    return value
