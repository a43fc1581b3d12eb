"""Parameters to JSON bytes: checked before anything is sent, so that a typo costs no round trip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from ..errors import InvalidRequestError, escape
from ..types import AgentCompletionParams, ChatCompletionMessage, ChatCompletionParams, Model, NotGiven
from .normalize import is_object

__all__ = ["check_params", "encode_request", "known_params", "message_to_dict"]

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
_LONGEST_VALUE = 80  # characters of a refused value to show
_WAY_ROUND = "validate=False or extra_body={...} sends it all the same"


def known_params(*, agent: bool = False) -> frozenset[str]:
    """Return the names of all documented parameters, ``stream`` not among them."""
    return _AGENT if agent else _CHAT


def check_params(
    params: Mapping[str, Any], *, stream: bool, agent: bool = False, validate: bool = True
) -> dict[str, Any]:
    """Check keyword arguments; return those that were given, with iterables made lists.

    Args:
        params: Keyword arguments. `NOT_GIVEN` counts as absent.
        stream: Whether a stream is asked for.
        agent: Whether an agent is asked.
        validate: Whether to check values; names are always checked.

    Raises:
        TypeError: If a name is unknown, or ``messages`` or ``model`` is missing.
        InvalidRequestError: If a value is outside its documented limit.
    """
    given = {name: value for name, value in params.items() if not isinstance(value, NotGiven)}
    known = _AGENT if agent else _CHAT
    if not given.keys() <= known:
        _refuse_name(next(name for name in given if name not in known), known)
    for name in ("messages", "tools", "stop"):
        value = given.get(name)
        if value is not None and not isinstance(value, (list, str, Mapping)) and isinstance(value, Iterable):
            given[name] = list(cast("Iterable[Any]", value))
    if validate:
        _validate(given, stream=stream, agent=agent)
    return given


def encode_request(
    params: Mapping[str, Any], *, stream: bool | None, extra_body: Mapping[str, Any] | None = None
) -> bytes:
    """Encode a request's body.

    Args:
        params: What `check_params` returned.
        stream: The value of ``stream`` to send; None leaves it out.
        extra_body: More fields; they win over parameters of the same name.

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
    except (TypeError, ValueError, RecursionError) as error:
        problem = "nested too deep" if isinstance(error, RecursionError) else str(error)
    raise InvalidRequestError(f"the request can't be written as JSON: {problem}")


def _message(message: Any) -> Any:
    if isinstance(message, ChatCompletionMessage):
        return message_to_dict(message)
    if isinstance(message, (dict, Mapping)):  # a dictionary is told sooner
        entry = cast("Mapping[str, Any]", message)
        # Parts of a reply may stand in a dictionary: `{"role": "assistant", "tool_calls": reply.tool_calls}`.
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
            data.pop("function", None)  # empty beside it, and refused
        return data
    return [_part(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def message_to_dict(message: ChatCompletionMessage) -> dict[str, Any]:
    """Turn a reply's message into a message of the next request.

    The role stays, fields that are None go, ``content`` stays null beside tool calls. Content that came
    as parts goes back as parts; text that came beside them is one more.
    """
    data = {name: value for name, value in message.to_dict().items() if name != "role"}
    if message.tool_calls is not None:
        data["tool_calls"] = _part(message.tool_calls)
    parts = data.pop("content_parts", None)
    if parts:
        data["content"] = _with_text(parts, message.content)
        if any(is_object(part) and "thinking" in part for part in parts):
            data.pop("reasoning_content", None)  # it is in the parts
    elif "tool_calls" in data or "function_call" in data:
        data.setdefault("content", None)
    audio = data.get("audio")
    if isinstance(audio, dict) and "id" in audio:
        data["audio"] = {"id": cast("dict[str, Any]", audio)["id"]}  # the API takes back its name only
    return {"role": message.role, **data}


def _with_text(parts: list[Any], content: str | None) -> list[Any]:
    """Return the parts of a message with all of its text: servers mix parts and plain strings."""
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
    """Encode what is not JSON by itself: other libraries' messages, and any mapping or iterable."""
    for name in ("model_dump", "to_dict"):
        dump = getattr(value, name, None)
        if callable(dump):
            return dump(exclude_none=True) if name == "model_dump" else dump()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, Iterable):
        return list(cast("Iterable[Any]", value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _refuse_name(name: str, known: frozenset[str]) -> None:
    import difflib  # noqa: PLC0415  # only an error needs it

    close = difflib.get_close_matches(name, [*known, "stream", "timeout", "extra_body", "extra_headers"], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise TypeError(
        f"unexpected keyword argument {name!r}.{hint} "
        "Parameters this library does not know go into extra_body={...}."
    )


def _validate(given: dict[str, Any], *, stream: bool, agent: bool) -> None:
    required = ("messages",) if agent else ("messages", "model")
    missing = [name for name in required if name not in given]
    if missing:
        raise TypeError(f"missing required keyword argument {missing[0]!r}")
    refused: msgspec.ValidationError
    try:
        msgspec.convert(given, AgentCompletionParams if agent else ChatCompletionParams)
    except msgspec.ValidationError as error:
        refused = error
    else:
        _validate_messages(given["messages"])
        if given.get("top_logprobs") is not None and given.get("logprobs") is not True:
            raise _invalid("top_logprobs", given["top_logprobs"], "it goes only with logprobs=True")
        if given.get("stream_options") is not None and not stream:
            raise _invalid("stream_options", given["stream_options"], "it goes only with stream=True")
        return
    # Such as "Expected `int` <= 128 - at `$.n`", or "... - at `key` in `$.metadata`".
    what, _, where = str(refused).rpartition(" - at ")
    path = where.rpartition("$.")[2].rstrip("`")
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    inside = "" if path == name else f" at {path}"
    if where.startswith("`key`"):
        inside = f" as a key{inside}"
    documented = f" (documented: {_DOCUMENTED[name]})" if name in _DOCUMENTED else ""
    raise _invalid(name, given.get(name), f"{what[:1].lower()}{what[1:]}{inside}{documented}")


def _validate_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise _invalid("messages", messages, "expected a list of messages")
    if not messages:
        raise _invalid("messages", messages, "expected at least 1 message")
    for index, message in enumerate(cast("list[Any]", messages)):
        if not isinstance(message, (dict, Mapping)):  # a dictionary is told sooner
            if (
                isinstance(message, msgspec.Struct)
                or hasattr(message, "model_dump")
                or hasattr(message, "to_dict")
            ):
                continue  # a reply of ours, or of another library
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
    shown = escape(repr(value), _LONGEST_VALUE)
    return InvalidRequestError(f"{param}={shown}: {limit}; {_WAY_ROUND}", param=param)
