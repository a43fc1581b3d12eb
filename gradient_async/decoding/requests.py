"""Checks the parameters of a request, and encodes them as JSON. A misspelt name is refused before anything is sent."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from ..errors import InvalidRequestError, escape
from ..types import AgentCompletionParams, ChatCompletionMessage, ChatCompletionParams, Model, NotGiven
from .normalize import DECODE_ERRORS, describe_decode_error, is_object

_CHAT = frozenset(ChatCompletionParams.__annotations__)
_AGENT = frozenset(AgentCompletionParams.__annotations__)
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_DOCUMENTED = {
    "frequency_penalty": "-2.0 to 2.0",
    "logit_bias": "token id to a bias of -100 to 100",
    "max_completion_tokens": "at least 1",
    "max_tokens": "at least 1",
    "metadata": "at most 16 pairs of strings, keys of at most 64 characters, values of at most 512",
    "n": "1 to 128",
    "presence_penalty": "-2.0 to 2.0",
    "stop": "a string, or 1 to 4 strings",
    "temperature": "0 to 2",
    "tool_choice": '"none", "auto", "required", or {"type": "function", "function": {"name": ...}}',
    "tools": "function names of 1 to 64 of a-z A-Z 0-9 _ -",
    "top_logprobs": "0 to 20",
    "top_p": "0 to 1",
}
_MAX_SHOWN = 80  # characters of a refused value
_OVERRIDE = "to send it anyway, use validate=False or extra_body={...}"


def known_params(*, agent: bool = False) -> frozenset[str]:
    """Return the names of all documented parameters but ``stream``."""
    return _AGENT if agent else _CHAT


def check_params(
    params: Mapping[str, Any], *, stream: bool, agent: bool = False, validate: bool = True
) -> dict[str, Any]:
    """Check keyword arguments; return those that go into the request, with iterables converted to lists.

    Args:
        params: Keyword arguments. An argument of `NOT_GIVEN` counts as absent.
        stream: Whether the request asks for a stream.
        agent: Whether the request goes to an agent.
        validate: Whether to check values; names are always checked.

    Raises:
        TypeError: If a name is unknown, or ``messages`` or ``model`` is missing.
        InvalidRequestError: If a value is outside its documented limit.
    """
    arguments = {name: value for name, value in params.items() if not isinstance(value, NotGiven)}
    known = known_params(agent=agent)
    if not arguments.keys() <= known:
        raise _unknown_name(next(name for name in arguments if name not in known), known)
    for name in ("messages", "tools", "stop"):
        value = arguments.get(name)
        if value is not None and not isinstance(value, (list, str, Mapping)) and isinstance(value, Iterable):
            arguments[name] = list(cast("Iterable[Any]", value))
    if validate:
        _validate(arguments, stream=stream, agent=agent)
    return arguments


def encode_request(
    params: Mapping[str, Any], *, stream: bool | None, extra_body: Mapping[str, Any] | None = None
) -> bytes:
    """Encode the body of a request.

    Args:
        params: The result of `check_params`.
        stream: The value of ``stream`` to send; None sends no such field.
        extra_body: Additional fields; they override parameters of the same name.

    Raises:
        InvalidRequestError: If a value has no JSON form.
    """
    body = dict(params)
    if stream is not None:
        body["stream"] = stream
    if extra_body:
        body.update({name: value for name, value in extra_body.items() if not isinstance(value, NotGiven)})
    messages = body.get("messages")
    if isinstance(messages, list):
        body["messages"] = [_message(message) for message in cast("list[Any]", messages)]
    problem: str
    try:
        return msgspec.json.encode(body, enc_hook=_plain)
    except TypeError as error:
        problem = str(error)
    except DECODE_ERRORS as error:
        problem = describe_decode_error(error)
    raise InvalidRequestError(f"the request can't be written as JSON: {problem}")


def _message(message: Any) -> Any:
    if isinstance(message, ChatCompletionMessage):
        return message_to_dict(message)
    if isinstance(message, (dict, Mapping)):  # `dict` first: `isinstance` with an ABC is slow
        entry = cast("Mapping[str, Any]", message)
        # A dictionary may hold parts of a reply: `{"role": "assistant", "tool_calls": reply.tool_calls}`.
        return {
            name: value if isinstance(value, str) else _part(value)
            for name, value in entry.items()
            if not isinstance(value, NotGiven)
        }
    return message


def _part(value: Any) -> Any:
    if isinstance(value, Model):
        data = value.to_dict()
        if "custom" in data:
            data.pop("function", None)  # a custom call has no function, and servers refuse an empty one
        return data
    return [_part(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def message_to_dict(message: ChatCompletionMessage) -> dict[str, Any]:
    """Convert the message of a reply to a message of the next request.

    The role is always sent, and fields that are None are not, except for ``content`` beside tool calls. Content that
    was received as parts is sent as parts; text that was received beside the parts becomes another part.
    """
    data = {name: value for name, value in message.to_dict().items() if name != "role"}
    if message.tool_calls is not None:
        data["tool_calls"] = _part(message.tool_calls)
    parts = data.pop("content_parts", None)
    if parts:
        data["content"] = _with_text(parts, message.content)
        if any(is_object(part) and "thinking" in part for part in parts):
            data.pop("reasoning_content", None)  # the parts contain the reasoning
    elif "tool_calls" in data or "function_call" in data:
        data.setdefault("content", None)
    audio = data.get("audio")
    if isinstance(audio, dict) and "id" in audio:
        data["audio"] = {"id": cast("dict[str, Any]", audio)["id"]}  # the API accepts nothing but the id
    return {"role": message.role, **data}


def _with_text(parts: list[Any], content: str | None) -> list[Any]:
    """Return the parts of a message, with its whole text: some deltas contain parts, and others plain text."""
    texts: list[str] = []
    others: list[Any] = []
    for part in parts:
        text = part.get("text") if is_object(part) else part
        if isinstance(text, str):
            texts.append(text)
        else:
            others.append(part)
    if not content or "".join(texts) == content:
        return parts
    return [*others, {"type": "text", "text": content}]


def _plain(value: Any) -> Any:
    """Convert an object that msgspec cannot encode: a message of another library, a mapping or an iterable."""
    for name in ("model_dump", "to_dict"):
        dump = getattr(value, name, None)
        if callable(dump):
            return dump(exclude_none=True) if name == "model_dump" else dump()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, Iterable):
        return list(cast("Iterable[Any]", value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _unknown_name(name: str, known: frozenset[str]) -> TypeError:
    close = difflib.get_close_matches(name, [*known, "stream", "timeout", "extra_body", "extra_headers"], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return TypeError(
        f"unexpected keyword argument {name!r}.{hint} "
        "Parameters that this library does not know go into extra_body={...}."
    )


def _validate(arguments: dict[str, Any], *, stream: bool, agent: bool) -> None:
    for name in ("messages",) if agent else ("messages", "model"):
        if name not in arguments:
            raise TypeError(f"missing required keyword argument {name!r}")
    message: str
    try:
        msgspec.convert(arguments, AgentCompletionParams if agent else ChatCompletionParams)
    except msgspec.ValidationError as error:
        message = str(error)
    else:
        _validate_messages(arguments["messages"])
        if arguments.get("top_logprobs") is not None and arguments.get("logprobs") is not True:
            raise _invalid("top_logprobs", arguments["top_logprobs"], "it requires logprobs=True")
        if arguments.get("stream_options") is not None and not stream:
            raise _invalid("stream_options", arguments["stream_options"], "it requires stream=True")
        return
    # msgspec says "Expected `int` <= 128 - at `$.n`", or "... - at `key` in `$.metadata`".
    problem, _, place = message.rpartition(" - at ")
    path = place.rpartition("$.")[2].rstrip("`")
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    inside = "" if path == name else f" at {path}"
    if place.startswith("`key`"):
        inside = f" as a key{inside}"
    documented = f" (documented: {_DOCUMENTED[name]})" if name in _DOCUMENTED else ""
    raise _invalid(name, arguments.get(name), f"{problem[:1].lower()}{problem[1:]}{inside}{documented}")


def _validate_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise _invalid("messages", messages, "expected a list of messages")
    if not messages:
        raise _invalid("messages", messages, "expected at least 1 message")
    for index, message in enumerate(cast("list[Any]", messages)):
        if not isinstance(message, (dict, Mapping)):  # `dict` first: `isinstance` with an ABC is slow
            if (
                isinstance(message, msgspec.Struct)
                or hasattr(message, "model_dump")
                or hasattr(message, "to_dict")
            ):
                continue  # the message of a reply, or an object of another library
            raise _invalid(f"messages[{index}]", message, "expected a dictionary or a reply's message")
        entry = cast("Mapping[str, Any]", message)
        role = entry.get("role")
        if role not in _ROLES:
            raise _invalid(f"messages[{index}].role", role, f"expected one of {', '.join(_ROLES)}")
        content = entry.get("content")
        if content is not None and not isinstance(content, (str, Mapping, list, tuple)):
            raise _invalid(f"messages[{index}].content", content, "expected text, a part, or a list of them")
        if content is None and role not in {"assistant", "function"}:
            raise _invalid(f"messages[{index}].content", content, f"a message of role {role} needs content")
        if role == "tool" and not isinstance(entry.get("tool_call_id"), str):
            raise _invalid(
                f"messages[{index}].tool_call_id", entry.get("tool_call_id"), "expected the id of the call"
            )


def _invalid(param: str, value: Any, limit: str) -> InvalidRequestError:
    shown = escape(repr(value), _MAX_SHOWN)
    return InvalidRequestError(f"{param}={shown}: {limit}; {_OVERRIDE}", param=param)
