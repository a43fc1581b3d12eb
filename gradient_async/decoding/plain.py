"""Converts the values of a request to plain data: dicts, lists, str, int, float, bool and None.

Callers pass values that are nearly plain: text of numpy or of a template engine, an enum, a message of another library, a
proxy of a dictionary. `msgspec.json.encode` alone would encode some of these in a way that the caller did not mean: a
subclass of str as a list of its letters, NaN as null, bytes as base64, a Decimal as text. So all values are converted here
first, and a value without a JSON form is refused with its path.
"""

from __future__ import annotations

import math
from collections import UserString
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeGuard, cast

import msgspec

from ..errors import escape
from ..types import ChatCompletionMessage, is_given
from ..types.nesting import MAX_DEPTH
from .normalize import is_object

# msgspec would encode values of these types as text, which the caller may not mean. Each has the reason for the refusal.
_NO_JSON: dict[type, str] = {
    bytes: "bytes are not text; decode them, or write them as base64",
    bytearray: "bytes are not text; decode them, or write them as base64",
    memoryview: "bytes are not text; decode them, or write them as base64",
    Decimal: "JSON has no Decimal; convert it with float() or str()",
}
# Methods by which objects of other libraries return plain data: those of pydantic, of many clients, and of arrays and their
# scalars.
_DUMPS = ("model_dump", "to_dict", "tolist")
OTHER_ROLES = ("user", "system", "tool", "developer", "function")
"""The roles of messages that are not replies; a tuple, because a value in the place of a role may not be hashable."""
_LEAVES = frozenset({str, int, bool, type(None)})  # float is left out, because NaN is a float
PLAIN = _LEAVES | {float, dict, list}
"""The types of plain data."""
_TOO_DEEP = f"nested too deep, more than {MAX_DEPTH} levels"
_MAX_UNWRAPPED = 8  # maximum number of conversions in a row that return another object

_MAX_PATH = 200  # maximum characters of the path to a refused value
_MAX_SHOWN = 80  # maximum characters of a refused value in a message


class NoJSONError(Exception):
    """A value cannot be sent. Only `decoding` uses this exception, and never passes it on.

    Attributes:
        problem: Why the value cannot be sent.
        value: The value.
        steps: The names and indices on the path to the value, from the inside out.
    """

    def __init__(self, problem: str, value: Any) -> None:
        super().__init__(problem)
        self.problem = problem
        self.value = value
        self.steps: list[str | int] = []

    def inside(self, container: Any, step: str | int | None) -> None:
        """Note that the value is inside a container; the step is None if the value is a key of it."""
        if container is self.value:  # the value was nested too deep because it contains itself
            self.problem = "it contains itself"
            self.steps.clear()
        elif step is not None:
            self.steps.append(step)

    @property
    def path(self) -> str:
        """The path to the value, such as ``messages[3].content[0].text``."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(self.steps))
        return escape("".join(steps).removeprefix("."), _MAX_PATH)


def to_plain(value: object, depth: int = 0, unwrapped: int = 0) -> Any:
    """Convert a value of the caller to plain data. Half a surrogate pair in a text is not refused here.

    Args:
        value: The value.
        depth: How many objects and arrays are around the value.
        unwrapped: How many objects of other libraries have been converted to get this value.

    Raises:
        NoJSONError: If the value, or anything in it, has no JSON form, is nested too deep, or contains itself.
    """
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return plain_fields(value, depth)
    if kind is list:
        return _plain_items(value, depth)
    # The methods of the base class are called, because a subclass may override them.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NoJSONError("JSON has no such number", value)
        return float.__float__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if unwrapped == _MAX_UNWRAPPED:
        raise NoJSONError(f"{kind.__name__} turns into other objects again and again", value)
    return to_plain(_unwrapped(value), depth, unwrapped + 1)


def plain_fields(value: Any, depth: int = 0) -> dict[str, Any]:
    """Convert a dictionary, as `to_plain` does."""
    if depth == MAX_DEPTH:
        raise NoJSONError(_TOO_DEEP, value)
    fields: dict[str, Any] = {}
    name: str | None = None
    item: object
    try:
        for key, item in value.items():
            if type(key) is str:
                name = key
            else:
                name = None
                name = _plain_name(key)
            kind = type(item)
            # This does the same as `to_plain`, without a call for each item: tools and parts have thousands of items.
            if kind is str or kind in _LEAVES:
                fields[name] = item
            elif kind is dict:
                fields[name] = plain_fields(item, depth + 1)
            elif kind is list:
                fields[name] = _plain_items(item, depth + 1)
            elif is_given(item):
                fields[name] = to_plain(item, depth + 1)
    except NoJSONError as refused:
        refused.inside(value, name)
        raise
    return fields


def _plain_items(value: Any, depth: int) -> list[Any]:
    if depth == MAX_DEPTH:
        raise NoJSONError(_TOO_DEEP, value)
    items: list[Any] = []
    left_out = 0
    item: object
    try:
        for item in value:
            kind = type(item)
            if kind is dict:
                items.append(plain_fields(item, depth + 1))
            elif kind in _LEAVES:
                items.append(item)
            elif is_given(item):
                items.append(to_plain(item, depth + 1))
            else:
                left_out += 1
    except NoJSONError as refused:
        refused.inside(value, len(items) + left_out)
        raise
    return items


def _plain_name(key: Any) -> str:
    """Return the key of a dictionary as the name of a JSON field, which is always text."""
    name = to_plain(key)
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if not isinstance(name, str):
        raise NoJSONError("the keys of a dictionary must be text or whole numbers", key)
    return name


def _unwrapped(value: Any) -> Any:
    """Convert an object one step towards plain data."""
    for kind, problem in _NO_JSON.items():
        if isinstance(value, kind):
            raise NoJSONError(problem, value)
    try:
        return _converted(value)
    except (TypeError, ValueError, RecursionError) as error:
        # The conversion of the other library failed, for example because a generator had been read before.
        problem = str(error) if not isinstance(error, RecursionError) else "nested too deep"
    raise NoJSONError(problem, value)


def _converted(value: Any) -> Any:
    if isinstance(value, UserString):
        return value.data
    if isinstance(value, ChatCompletionMessage):
        return message_to_dict(value)
    if isinstance(value, type):
        raise TypeError("a class has no JSON form")
    for name in _DUMPS:
        dump = getattr(value, name, None)
        if callable(dump):
            return dump(exclude_none=True) if name == "model_dump" else dump()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if is_list_like(value) and not hasattr(value, "__dataclass_fields__"):
        return list(value)
    # msgspec converts dataclasses and similar objects, enums, dates and UUIDs. The types in `_NO_JSON` are left unchanged, so that
    # they are refused later. `enc_hook` is called for a type that msgspec does not know: of the value, or inside the value.
    return msgspec.to_builtins(
        value,
        builtin_types=tuple(_NO_JSON),
        enc_hook=lambda inner: _no_form(value) if inner is value else to_plain(inner),
    )


def _no_form(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def is_list_like(value: Any) -> TypeGuard[Iterable[Any]]:
    """Whether a value of the caller counts as a list: an iterable that is neither text, bytes nor a mapping."""
    return isinstance(value, Iterable) and not isinstance(
        value, (str, bytes, bytearray, memoryview, Mapping, UserString, type)
    )


def encode(plain: Any) -> bytes:
    """Encode plain data as JSON.

    Raises:
        NoJSONError: If a text or a number cannot be encoded.
    """
    try:
        return msgspec.json.encode(plain)
    except UnicodeEncodeError:
        problem = "half a surrogate pair cannot be encoded"
    except ValueError:
        problem = "Python writes no number of so many digits"
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(plain, dict):
        items = cast("dict[str, Any]", plain).items()
    elif isinstance(plain, list):
        items = enumerate(cast("list[Any]", plain))
    for step, item in items:
        place = None
        try:
            encode(step)
            place = step
            encode(item)
        except NoJSONError as refused:
            refused.inside(plain, place)
            raise
    raise NoJSONError(problem, plain)


def shown(value: Any) -> str:
    """Return a value of any type and size as text for a message, escaped and cut."""
    try:
        text = repr(value[:_MAX_SHOWN] if isinstance(value, (str, bytes)) else value)
    except Exception:  # noqa: BLE001  # of a foreign `__repr__`, deep lists, and numbers of too many digits
        text = f"<{type(value).__name__}>"
    return escape(text, _MAX_SHOWN)


def message_to_dict(message: ChatCompletionMessage | Mapping[str, Any]) -> dict[str, Any]:
    """Convert the message of a reply to a message of the next request.

    The role is always sent. Fields that are None are left out, except for ``content`` beside tool calls. Content that
    was received as parts is sent as parts; text that was received beside the parts becomes another part.

    Args:
        message: The message, or its plain data, as `to_dict` or `model_dump` returns them, or another program stored them.
            From messages of other roles, only the fields that are None are removed.
    """
    message = message.to_dict() if isinstance(message, ChatCompletionMessage) else message
    reply = message.get("role") not in OTHER_ROLES
    data = {
        name: value
        for name, value in message.items()
        if value is not None or name == "role" or (name == "content" and not reply)
    }
    if not reply:
        return data
    calls = data.get("tool_calls")
    if isinstance(calls, list):
        data["tool_calls"] = [_call_to_dict(call) for call in cast("list[Any]", calls)]
    parts = data.pop("content_parts", None)
    if parts:
        data["content"] = _with_text(parts, data.get("content"))
        if any(is_object(part) and "thinking" in part for part in parts):
            # The thinking parts have the same text, which must not be sent twice.
            data.pop("reasoning_content", None)
    elif data.get("tool_calls") or "function_call" in data:
        data.setdefault("content", None)
    audio = data.get("audio")
    if is_object(audio) and "id" in audio:
        data["audio"] = {"id": audio["id"]}  # the API accepts nothing but the id
    return data


def _call_to_dict(call: Any) -> Any:
    """Convert a tool call of a reply, which is plain data, to a tool call of a request."""
    if not is_object(call):
        return call
    data = {name: value for name, value in call.items() if value is not None}
    if "custom" in data:
        data.pop("function", None)  # a custom call has no function, and servers refuse an empty one
    return data


def _with_text(parts: list[Any], content: str | None) -> list[Any]:
    """Return the parts of a message with all of its text: some deltas have parts, and others plain text."""
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
