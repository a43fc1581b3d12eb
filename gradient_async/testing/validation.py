"""What the API refuses with 400, as a table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

__all__ = ["Fault", "find_fault"]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_STOPS = 4


class Fault(NamedTuple):
    """What is wrong with a request.

    Attributes:
        param: The parameter at fault; None if the body as a whole is.
        message: What to say.
    """

    param: str | None
    message: str


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    )


def _integer(low: int, high: float) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _stop(value: object) -> bool:
    stops = cast("list[object]", value) if isinstance(value, list) else [value]
    return 1 <= len(stops) <= _MOST_STOPS and all(isinstance(stop, str) and stop for stop in stops)


def _format(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    wanted = cast("dict[str, Any]", value)
    if wanted.get("type") == "json_schema":
        inner: Any = wanted.get("json_schema")
        return isinstance(inner, dict) and isinstance(cast("dict[str, Any]", inner).get("schema"), dict)
    return wanted.get("type") in ("text", "json_object")


_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "temperature": (_number(0, 2), "a number from 0 to 2"),
    "top_p": (_number(0, 1), "a number from 0 to 1"),
    "frequency_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "presence_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "n": (_integer(1, 128), "an integer from 1 to 128"),
    "max_tokens": (_integer(1, math.inf), "a positive integer"),
    "max_completion_tokens": (_integer(1, math.inf), "a positive integer"),
    "top_logprobs": (_integer(0, 20), "an integer from 0 to 20"),
    "logprobs": (_flag, "a boolean"),
    "stream": (_flag, "a boolean"),
    "parallel_tool_calls": (_flag, "a boolean"),
    "seed": (_integer(-(2**63), 2**63 - 1), "an integer of 64 bits"),
    "stop": (_stop, "a string, or 1 to 4 strings, none of them empty"),
    "stream_options": (lambda value: isinstance(value, dict), "an object"),
    "reasoning_effort": (lambda value: isinstance(value, str), "a string"),
    "response_format": (_format, "an object of type text, json_object or json_schema, with its schema"),
}


def find_fault(body: object, *, agent: bool) -> Fault | None:
    """Look for the first thing wrong with the body of a request for a completion.

    Args:
        body: The body, decoded from JSON.
        agent: Whether an agent is asked; it needs no model.

    Returns:
        What is wrong; None if nothing is.
    """
    if not isinstance(body, dict):
        return Fault(None, "the body must be a JSON object")
    request = cast("dict[str, Any]", body)
    if not agent and not (isinstance(request.get("model"), str) and request["model"]):
        return Fault("model", "you must provide a model")
    for name, (fits, limit) in _RULES.items():
        value = request.get(name)
        if value is not None and not fits(value):
            return Fault(name, f"{name} must be {limit}")
    if request.get("top_logprobs") is not None and not request.get("logprobs"):
        return Fault("top_logprobs", "top_logprobs is allowed only with logprobs: true")
    if request.get("stream_options") is not None and not request.get("stream"):
        return Fault("stream_options", "stream_options is allowed only with stream: true")
    return _messages_fault(request.get("messages")) or _tools_fault(request)


def _messages_fault(messages: object) -> Fault | None:
    if not isinstance(messages, list) or not messages:
        return Fault("messages", "messages must be a list of at least 1 message")
    for index, message in enumerate(cast("list[Any]", messages)):
        if not isinstance(message, dict) or cast("dict[str, Any]", message).get("role") not in _ROLES:
            return Fault(
                f"messages[{index}]", f"a message must be an object whose role is one of {sorted(_ROLES)}"
            )
    return None


def _tools_fault(request: Mapping[str, Any]) -> Fault | None:
    tools = request.get("tools")
    choice = request.get("tool_choice")
    if not tools:
        if choice is not None and choice != "none":
            return Fault("tool_choice", "tool_choice is allowed only with tools")
        return None
    if not isinstance(tools, list):
        return Fault("tools", "tools must be a list")
    names: list[str] = []
    for index, tool in enumerate(cast("list[Any]", tools)):
        function = cast("dict[str, Any]", tool).get("function") if isinstance(tool, dict) else None
        name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            return Fault(
                f"tools[{index}].function.name", "a tool needs a name of 1 to 64 letters, digits, _ and -"
            )
        names.append(name)
    if choice in (None, "none", "auto", "required"):
        return None
    function = cast("dict[str, Any]", choice).get("function") if isinstance(choice, dict) else None
    if not isinstance(function, dict) or cast("dict[str, Any]", function).get("name") not in names:
        return Fault("tool_choice", f"tool_choice must be none, auto, required, or name one of {names}")
    return None
