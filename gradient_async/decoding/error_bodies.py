"""Errors in the bodies of replies and in events, in the four shapes that servers use.

=============  ==================================================================
DigitalOcean   ``{"id": "unauthorized", "message": "...", "request_id": "..."}``
OpenAI         ``{"error": {"message", "type", "code", "param"}}``, ``{"error": "text"}``
Anthropic      ``{"type": "error", "error": {"type", "message"}}``
FastAPI        ``{"detail": "text"}``, ``{"detail": [{"loc", "msg", "type"}]}``
=============  ==================================================================
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ..errors import StreamServerError, escape
from .normalize import DECODE_ERRORS, is_object, loads

_MAX_NAME = 200  # characters of a code, a type or an id
_MAX_TEXT = 2048  # characters to keep of a body that is not JSON
_MAX_DEPTH = 3  # levels of objects and lists that are searched for a message


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the server described it.

    Attributes:
        message: The server's message, escaped and cut; empty if there is none.
        code: The server's code of the error, or DigitalOcean's id.
        type: The server's type of the error.
        param: The parameter that the server refused.
        request_id: The server's id of the request.
        body: The whole body: decoded JSON, or the first 2,048 characters of a body that is not JSON.
    """

    message: str
    code: str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None
    body: Any = None


def parse_error(content: bytes) -> ErrorBody:
    """Read the body of an error reply.

    Args:
        content: The body: JSON in one of the four shapes, HTML, text, or nothing.
    """
    try:
        body = loads(content)
    except DECODE_ERRORS:
        text = content.decode("utf-8", "replace")
        return ErrorBody(message=escape(_without_tags(text)), body=text[:_MAX_TEXT] or None)
    return describe_error(body)


def find_error(body: Any) -> ErrorBody | None:
    """Return the error in the payload of an event or in the body of a 2xx reply; None if there is none.

    Args:
        body: Decoded JSON. Without a field ``error``, an object that has no choices but a message, a detail or a
            code is an error as well.
    """
    return describe_error(body) if is_object(body) and _is_error(body) else None


def describe_error(body: Any) -> ErrorBody:
    """Read a decoded JSON value that is an error by the status of its reply, or by the type of its event."""
    outer = body
    if isinstance(body, list) and body:
        outer = cast("list[Any]", body)[0]  # some gateways send a list with one error
    if not is_object(outer):
        return ErrorBody(message=escape(_message_of(body)), body=body)
    error = outer.get("error") or outer
    details: dict[str, Any] = error if is_object(error) else outer
    message = details.get("message") or details.get("detail") if is_object(error) else error
    kind = details.get("type") or details.get("error_type")
    code = details.get("code")
    if code is None and error is outer and not outer.get("object"):
        # In DigitalOcean's shape the id names the kind of error. With a field `object`, the id would be a completion's.
        code = outer.get("id")
    return ErrorBody(
        message=escape(_message_of(message) or _message_of(kind)),
        code=_name(code),
        type=_name(kind),
        param=_name(details.get("param")),
        request_id=_name(outer.get("request_id") or details.get("request_id")),
        body=body,
    )


def _is_error(body: dict[str, Any]) -> bool:
    error = body.get("error")
    if error:
        return True
    if isinstance(body.get("choices"), list):
        return False
    # An empty string, object or list is an error too; null, false and 0 mean that there is no error.
    if error is not None and error != 0:
        return True
    return any(body.get(name) for name in ("message", "detail", "code"))


def server_error(error: ErrorBody, where: str = "inside the stream") -> StreamServerError:
    """Return the exception for an error in a reply of status 2xx."""
    name = f" ({error.code or error.type})" if error.code or error.type else ""
    return StreamServerError(
        f"the server sent an error {where}: {error.message or 'no message'}{name}",
        body=error.body,
        code=error.code,
        type=error.type,
        param=error.param,
        request_id=error.request_id,
    )


def _message_of(value: Any, depth: int = _MAX_DEPTH) -> str:
    """Return the message in a value as one line; FastAPI sends a list of problems, each with its location."""
    if is_object(value):
        inner = value.get("message") or value.get("detail") or value.get("msg") or value.get("type")
        message = _message_of(inner, depth - 1) if depth else ""
        steps = value.get("loc")
        place = ""
        if isinstance(steps, list):
            place = ".".join(_message_of(step, 0) for step in cast("list[Any]", steps))
        return f"{place}: {message}" if place else message
    if isinstance(value, list):
        return "; ".join(_message_of(item, depth - 1) for item in cast("list[Any]", value)) if depth else ""
    return "" if value is None else str(value)


def _name(value: Any) -> str | None:
    return None if value is None or isinstance(value, (dict, list)) else escape(str(value), _MAX_NAME)


def _without_tags(text: str) -> str:
    """Return the approximate text of a gateway's HTML page: everything outside of tags, with white space collapsed."""
    words: list[str] = []
    for piece in text[:4096].split("<"):
        tag, closed, rest = piece.partition(">")
        words.append(rest if closed else tag)
    return " ".join(" ".join(words).split())
