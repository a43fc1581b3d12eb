"""Checks the parameters of a request, and encodes them as JSON. A misspelt name is refused before anything is sent."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Required, cast, get_args, get_origin, get_type_hints

import msgspec

from ..errors import InvalidRequestError
from ..types import AgentCompletionParams, ChatCompletionParams, is_given
from ..types.model import build_tables
from .plain import (
    OTHER_ROLES,
    PLAIN,
    NoJSONError,
    encode,
    is_list_like,
    message_to_dict,
    plain_fields,
    shown,
    to_plain,
)


def _struct_of(params: type) -> type[msgspec.Struct]:
    """Make a Struct of the parameters in a TypedDict: msgspec converts to it in a tenth of the time."""
    fields: list[tuple[str, Any] | tuple[str, Any, None]] = []
    for name, hint in get_type_hints(params, include_extras=True).items():
        required = get_origin(hint) is Required
        fields.append((name, get_args(hint)[0]) if required else (name, hint, None))
    return msgspec.defstruct(params.__name__, fields, kw_only=True)


_CHAT = frozenset(ChatCompletionParams.__annotations__)
_AGENT = frozenset(AgentCompletionParams.__annotations__)
_CHAT_TYPES = _struct_of(ChatCompletionParams)
_AGENT_TYPES = _struct_of(AgentCompletionParams)
build_tables(_CHAT_TYPES, _AGENT_TYPES)
_USUAL_FIELDS = 2  # role and content, the fields of most messages that are not replies
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_NEED_CONTENT = ("system", "developer", "user", "tool")
_MESSAGE_OF = {"ChatCompletion": ".choices[0].message", "Choice": ".message"}
# Limits of parameters, for error messages. `_documented` reads the bounds of numbers from the type instead.
_DOCUMENTED = {
    "logit_bias": "token id to a bias of -100 to 100",
    "metadata": "at most 16 pairs of strings, keys of at most 64 characters, values of at most 512",
    "stop": "a string, or 1 to 4 strings",
    "tool_choice": (
        '"none", "auto", "required", or {"type": "function", "function": {"name": ...}}; '
        'also of type "custom" or "allowed_tools"'
    ),
    "tools": "names of 1 to 64 of a-z A-Z 0-9 _ -",
}
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
    known = _AGENT if agent else _CHAT
    arguments = {**params}
    for name, value in params.items():
        if name not in known or type(value) not in PLAIN:
            arguments = _given(params, known)
            break
    if validate:
        _validate(arguments, stream=stream, agent=agent)
    return arguments


def _given(params: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Return the arguments that are given, with iterables converted to lists, and refuse unknown names among them."""
    arguments = list_iterables({name: value for name, value in params.items() if is_given(value)})
    for name in arguments:
        if name not in known:
            raise _unknown_name(name, known)
    return arguments


def list_iterables(arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace iterables among the arguments by lists, in place: some iterables can be read only once."""
    for name in ("messages", "tools", "stop", "functions", "modalities"):
        value: Any = arguments.get(name)
        if is_list_like(value):
            arguments[name] = list(value)
    return arguments


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert parameters to plain data, which can be read twice: some iterables can be read only once.

    Raises:
        InvalidRequestError: If a value has no JSON form.
    """
    return {name: _plain(value, name) for name, value in params.items()}


def encode_request(
    params: Mapping[str, Any], *, stream: bool | None, extra_body: Mapping[str, Any] | None = None
) -> bytes:
    """Encode the body of a request.

    Values of subclasses of str, int and float are sent as values of these types. Mappings, iterables and messages of
    other libraries are converted to plain data. Messages are sent as `message_to_dict` describes; those in ``extra_body``
    are sent unchanged.

    Args:
        params: The result of `check_params`.
        stream: The value of ``stream`` to send; None sends no such field.
        extra_body: Additional fields; they override parameters of the same name.

    Raises:
        InvalidRequestError: If a value has no JSON form, is nested too deep, or contains itself; ``param`` is its path.
    """
    body = {**params}
    if stream is not None:
        body["stream"] = stream
    if extra_body:
        body.update(extra_body)
    refusal: NoJSONError
    try:
        plain = plain_fields(body)
        messages = plain.get("messages")
        if type(messages) is list and not (extra_body and "messages" in extra_body):
            _send_replies(cast("list[Any]", messages))
        return encode(plain)
    except NoJSONError as refused:
        refusal = refused.with_traceback(None)
    raise _cannot_be_sent(refusal)


def _send_replies(messages: list[Any]) -> None:
    """Convert replies among messages, which may have been stored as plain data, to messages of a request, in place."""
    for index, message in enumerate(messages):
        # Nearly all other messages have a role and content, and stay as they are.
        if type(message) is dict:
            fields = cast("dict[str, Any]", message)
            if fields.get("role") not in OTHER_ROLES or len(fields) != _USUAL_FIELDS:
                messages[index] = message_to_dict(fields)


def _cannot_be_sent(refusal: NoJSONError) -> InvalidRequestError:
    path = refusal.path
    return InvalidRequestError(
        f"{path}={shown(refusal.value)}: {refusal.problem}; the request can't be written as JSON", param=path
    )


def check_names(names: Iterable[str], options: Iterable[str], *, agent: bool = False) -> None:
    """Check the names of arguments that several requests share.

    Args:
        names: The names.
        options: Names that are accepted besides those of parameters.
        agent: Whether the requests go to an agent.

    Raises:
        TypeError: If a name is unknown.
    """
    known = known_params(agent=agent).union(options)
    for name in names:
        if name not in known:
            raise _unknown_name(name, known)


def _unknown_name(name: str, known: frozenset[str]) -> TypeError:
    close = difflib.get_close_matches(name, [*known, "stream", "timeout", "extra_body", "extra_headers"], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return TypeError(
        f"unexpected keyword argument {name!r}.{hint} "
        "Parameters that this library does not know go into extra_body={...}."
    )


def _validate(arguments: dict[str, Any], *, stream: bool, agent: bool) -> None:
    message = _mismatch(arguments, agent=agent)
    if message:
        for name in ("messages",) if agent else ("messages", "model"):
            if name not in arguments:
                raise TypeError(f"missing required keyword argument {name!r}")
        # A value of another type may be convertible to the type of its parameter, for example a number of numpy.
        others = {name: value for name, value in arguments.items() if name != "messages"}
        arguments.update(_plain(others))
        message = _mismatch(arguments, agent=agent)
    if not message:
        _validate_messages(arguments["messages"])
        if "top_logprobs" in arguments and not (
            arguments["top_logprobs"] is None or arguments.get("logprobs") is True
        ):
            raise _invalid("top_logprobs", arguments["top_logprobs"], "it requires logprobs=True")
        if not stream and "stream_options" in arguments and arguments["stream_options"] is not None:
            raise _invalid("stream_options", arguments["stream_options"], "it requires stream=True")
        return
    # msgspec says "Expected `int` <= 128 - at `$.n`", or "... - at `key` in `$.metadata`".
    problem, _, place = message.rpartition(" - at ")
    path = place.rpartition("$.")[2].rstrip("`")
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    inside = "" if path == name else f" at {path}"
    if place.startswith("`key`"):
        inside = f" as a key{inside}"
    limit = _documented(name)
    documented = f" (documented: {limit})" if limit else ""
    raise _invalid(name, arguments.get(name), f"{problem[:1].lower()}{problem[1:]}{inside}{documented}")


def _documented(name: str) -> str:
    """Return the limits of a parameter in words; "" if the parameter has none."""
    hints = {
        **get_type_hints(_CHAT_TYPES, include_extras=True),
        **get_type_hints(_AGENT_TYPES, include_extras=True),
    }
    for kind in get_args(hints.get(name)):
        for bounds in getattr(kind, "__metadata__", ()):
            if bounds.ge is not None:
                return f"at least {bounds.ge}" if bounds.le is None else f"{bounds.ge} to {bounds.le}"
    return _DOCUMENTED.get(name, "")


def _mismatch(arguments: Mapping[str, Any], *, agent: bool) -> str:
    """Return the error message for the first argument that is not of its type; "" if there is none."""
    try:
        msgspec.convert(arguments, _AGENT_TYPES if agent else _CHAT_TYPES)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


def _plain(value: Any, *steps: str | int) -> Any:
    """Convert a value to plain data; the steps are the path to the value, from the outside in."""
    refusal: NoJSONError
    try:
        return to_plain(value, len(steps))
    except NoJSONError as refused:
        refusal = refused.with_traceback(None)  # the traceback would refer to this frame
    refusal.steps += reversed(steps)
    raise _cannot_be_sent(refusal)


def _validate_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise _invalid("messages", messages, "expected a list of messages")
    left_out = 0
    for index, message in enumerate(cast("list[Any]", messages)):
        if message.__class__ is not dict and not _is_mapping(message):
            if not is_given(message):
                left_out += 1
                continue
            if (
                isinstance(message, msgspec.Struct)
                or hasattr(message, "model_dump")
                or hasattr(message, "to_dict")
            ):
                _refuse_reply(message, index)
                continue  # the message comes from a reply, or is an object of another library
            raise _invalid(f"messages[{index}]", message, "expected a dictionary or a reply's message")
        role = message.get("role")
        if not isinstance(role, str):
            role = _plain(role, "messages", index, "role")
        if role not in _ROLES and (not isinstance(role, str) or _is_misspelt(role)):
            raise _invalid(f"messages[{index}].role", role, f"expected one of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str):
            _validate_content(message, role, index)
        if role == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise _invalid(
                f"messages[{index}].tool_call_id", message.get("tool_call_id"), "expected the id of the call"
            )
    if left_out == len(cast("list[Any]", messages)):
        raise _invalid("messages", messages, "expected at least 1 message")


def _refuse_reply(value: Any, index: int) -> None:
    """Refuse a completion or a choice in place of its message, of this library or of another one."""
    name = type(value).__name__
    path = _MESSAGE_OF.get(name.removeprefix("Parsed"))
    if path is not None:
        param = f"messages[{index}]"
        raise InvalidRequestError(f"{param}: expected a message, not a {name}; pass its {path}", param=param)


def _is_misspelt(role: str) -> bool:
    """Whether a role is nearly one of the known roles.

    Other unknown roles are sent: some servers give their replies a role of their own, and a stored reply has to be sent
    back unchanged.
    """
    return role.lower() not in _ROLES and bool(difflib.get_close_matches(role.lower(), _ROLES, n=1))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _validate_content(message: Mapping[str, Any], role: str, index: int) -> None:
    """Check content that is not text."""
    content = message.get("content")
    if not _is_content(content):
        content = _plain(content, "messages", index, "content") if is_given(content) else None
        if not _is_content(content):
            raise _invalid(f"messages[{index}].content", content, "expected text, a part, or a list of them")
    if content is None and role in _NEED_CONTENT:
        raise _invalid(f"messages[{index}].content", content, f"a message of role {role} needs content")


def _is_content(content: Any) -> bool:
    return content is None or isinstance(content, (str, Mapping)) or is_list_like(content)


def _invalid(param: str, value: Any, limit: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}={shown(value)}: {limit}; {_OVERRIDE}", param=param)
