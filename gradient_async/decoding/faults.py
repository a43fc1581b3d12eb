"""Error bodies, in the four shapes that servers use, alone or as an event of a stream."""

from __future__ import annotations

from typing import Any, TypeGuard

import msgspec

from ..errors import StreamServerError, escape

__all__ = ["ErrorBody", "find_error", "is_object", "parse_error", "server_error"]


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said of an error.

    Attributes:
        message: Its words, escaped and cut; empty if it had none.
        code: Its code for the error, or DigitalOcean's id.
        type: Its kind of the error.
        param: The parameter it complains of.
        request_id: Its name for the request.
        body: All of it: decoded JSON, or else text.
    """

    message: str
    code: str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None
    body: Any = None


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def parse_error(content: bytes) -> ErrorBody:
    """Understand the body of an error reply, whatever it is.

    Args:
        content: The body; JSON in one of four shapes, or HTML, or text, or nothing.
    """
    try:
        body: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = content.decode("utf-8", "replace")
        return ErrorBody(message=escape(_without_tags(text)), body=text or None)
    return find_error(body, named=True) or ErrorBody(message="", body=body)


def find_error(body: Any, *, named: bool = False) -> ErrorBody | None:
    """Return the error that a decoded JSON value holds, or None if it holds none.

    Args:
        body: An event's payload or a reply's body.
        named: Whether something else says already that it is an error: the status, or the event's name.
    """
    if not is_object(body):
        return ErrorBody(message=escape(str(body)), body=body) if named else None
    error = body.get("error")
    has_choices = bool(body.get("choices"))
    if error is None or (not error and has_choices):
        # An object without choices that speaks of a message, a detail or a code is no chunk.
        if not named and (has_choices or not any(body.get(key) for key in ("message", "detail", "code"))):
            return None
        error = body
    fields: dict[str, Any] = error if is_object(error) else {}
    words = fields.get("message") or fields.get("detail") or (None if is_object(error) else error)
    code = fields.get("code")
    if code is None and error is body and not body.get("object"):
        code = body.get("id")  # DigitalOcean's shape: the id names the kind of error
    request_id = body.get("request_id") or fields.get("request_id")
    return ErrorBody(
        message=escape(_words(words) or _words(fields.get("type")) or ""),
        code=_text(code),
        type=_text(fields.get("type")),
        param=_text(fields.get("param")),
        request_id=_text(request_id),
        body=body,
    )


def server_error(error: ErrorBody, where: str = "inside the stream") -> StreamServerError:
    """Make the exception of an error that came with a status of 2xx."""
    named = f" ({error.code or error.type})" if error.code or error.type else ""
    return StreamServerError(
        f"the server sent an error {where}: {error.message or 'no message'}{named}",
        body=error.body,
        code=error.code,
        type=error.type,
        param=error.param,
        request_id=error.request_id,
    )


def _words(value: Any) -> str:
    """Bring an error's message to one line; FastAPI sends a list of what is wrong where."""
    if is_object(value):
        return _words(value.get("message") or value.get("detail") or value.get("msg"))
    if isinstance(value, list):
        return "; ".join(_complaint(item) for item in value)  # pyright: ignore[reportUnknownVariableType]
    return "" if value is None else str(value)


def _complaint(item: Any) -> str:
    if not is_object(item):
        return str(item)
    where = ".".join(str(step) for step in item.get("loc") or ())
    what = str(item.get("msg") or item.get("message") or item.get("type") or "")
    return f"{where}: {what}" if where else what


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, (dict, list)) else str(value)


def _without_tags(text: str) -> str:
    """The words of a gateway's HTML page, roughly: what stands between tags, white space folded."""
    words: list[str] = []
    for piece in text[:4096].split("<"):
        tag, closed, rest = piece.partition(">")
        words.append(rest if closed else tag)
    return " ".join(" ".join(words).split())
