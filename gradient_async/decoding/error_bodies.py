"""Error bodies, in the four shapes that servers use, alone or as an event of a stream."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ..errors import StreamServerError, escape
from .normalize import is_object, loads

_LONGEST_NAME = 200  # characters of a code, a type or an id
_LONGEST_PAGE = 2048  # characters of a body that is no JSON


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said of an error.

    Attributes:
        message: Its words, escaped and cut; empty if it had none.
        code: Its code for the error, or DigitalOcean's id.
        type: Its kind of the error.
        param: The parameter it complains of.
        request_id: Its name for the request.
        body: All of it: decoded JSON, or else its first 2,048 characters.
    """

    message: str
    code: str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None
    body: Any = None


def parse_error(content: bytes) -> ErrorBody:
    """Understand the body of an error reply, whatever it is.

    Args:
        content: The body; JSON in one of four shapes, or HTML, or text, or nothing.
    """
    try:
        body: Any = loads(content)
    except (ValueError, RecursionError):
        text = content.decode("utf-8", "replace")
        return ErrorBody(message=escape(_without_tags(text)), body=text[:_LONGEST_PAGE] or None)
    return find_error(body, named=True) or ErrorBody(message="", body=body)


def find_error(body: Any, *, named: bool = False) -> ErrorBody | None:
    """Return the error that a decoded JSON value holds, or None if it holds none.

    Without an ``error``, an object without choices that speaks of a message, a detail or a code is no
    chunk but an error.

    Args:
        body: An event's payload or a reply's body.
        named: Whether something else says already that it is an error: the status, or the event's name.
    """
    whole = body
    if isinstance(body, list) and named and body:
        body = cast("list[Any]", body)[0]  # some gateways send a list of one error
    if not is_object(body):
        return ErrorBody(message=escape(_words(whole)), body=whole) if named else None
    error = body.get("error")
    if not error:
        if not named and not _speaks_of_error(body):
            return None
        error = body
    fields: dict[str, Any] = error if is_object(error) else body
    words = fields.get("message") or fields.get("detail") if is_object(error) else error
    kind = fields.get("type") or fields.get("error_type")
    code = fields.get("code")
    if code is None and error is body and not body.get("object"):
        code = body.get("id")  # DigitalOcean's shape: the id names the kind of error
    return ErrorBody(
        message=escape(_words(words) or _words(kind)),
        code=_text(code),
        type=_text(kind),
        param=_text(fields.get("param")),
        request_id=_text(body.get("request_id") or fields.get("request_id")),
        body=whole,
    )


def _speaks_of_error(body: dict[str, Any]) -> bool:
    if isinstance(body.get("choices"), list):
        return False
    said = body.get("error")
    # An error without words is one all the same; false and 0 say that there is none.
    if said is not None and said is not False and said != 0:
        return True
    return any(body.get(key) for key in ("message", "detail", "code"))


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


def _words(value: Any, depth: int = 3) -> str:
    """Bring an error's message to one line; FastAPI sends a list of what is wrong where."""
    if is_object(value):
        inner = value.get("message") or value.get("detail") or value.get("msg") or value.get("type")
        what = _words(inner, depth - 1) if depth else ""
        steps = value.get("loc")
        where = (
            ".".join(_words(step, 0) for step in cast("list[Any]", steps)) if isinstance(steps, list) else ""
        )
        return f"{where}: {what}" if where else what
    if isinstance(value, list):
        return "; ".join(_words(item, depth - 1) for item in cast("list[Any]", value)) if depth else ""
    return "" if value is None else str(value)


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, (dict, list)) else escape(str(value), _LONGEST_NAME)


def _without_tags(text: str) -> str:
    """The words of a gateway's HTML page, roughly: what stands between tags, white space folded."""
    words: list[str] = []
    for piece in text[:4096].split("<"):
        tag, closed, rest = piece.partition(">")
        words.append(rest if closed else tag)
    return " ".join(" ".join(words).split())
