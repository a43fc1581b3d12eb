"""Errors in the bodies of replies and in events, under the names that servers use.

=============  ==================================================================
DigitalOcean   ``{"id": "unauthorized", "message": "...", "request_id": "..."}``
OpenAI         ``{"error": {"message", "type", "code", "param"}}``, ``{"error": "text"}``
Anthropic      ``{"type": "error", "error": {"type", "message"}}``
FastAPI        ``{"detail": "text"}``, ``{"detail": [{"loc", "msg", "type"}]}``
others         ``{"errors": [...]}``, ``{"error_code": 18, "error_msg": "..."}``, ``{"code": "...", "message": "..."}``,
               ``{"base_resp": {"status_code": 1004, "status_msg": "..."}}``
=============  ==================================================================

If the status is 4xx or 5xx, every body is an error. If the status is 2xx, and in a stream, `find_error` decides.
"""

from __future__ import annotations

import html
import json
import re
from itertools import islice
from typing import Any, TypeGuard, cast

import msgspec

from ..errors import StreamServerError, escape
from ..types.nesting import is_deeper
from .normalize import DECODE_ERRORS, JSON_OPTIONS, first_of, is_object, loads, loads_or_none

_MAX_NAME = 200  # maximum characters of a code, a type or an id
_MAX_CAUSE = 16 * 1024  # maximum characters of the text of another server that are searched for words
_MAX_TEXT = 2048  # maximum characters that are kept of a body that is not JSON
_MAX_PAGE = 64 * 1024  # maximum bytes of a page, and characters of a message, that are searched for words
_MAX_DEPTH = 3  # levels of objects and lists that are searched for a message
_MAX_FIELDS = 1000  # maximum fields of an object among which an error is searched
_MAX_ITEMS = 20  # maximum items of a list of messages that are shown

# Names of fields in the form that `_folded` returns. Earlier names take precedence.
_ERRORS = ("error", "errors", "err", "exception", "fault", "baseresp")
_MESSAGES = (
    "message", "detail", "msg", "errormsg", "errmsg", "errormessage", "errordescription", "statusmsg", "statusmessage",
    "faultstring", "title",
)  # fmt: skip
_CODES = ("code", "errorcode", "errcode", "statuscode")
_TYPES = ("type", "errortype", "status")
# Names of fields with a message, but only in JSON that is known to be an error.
_WORDS = (*_MESSAGES, "description", "reason", "details", *_ERRORS)
# Fields in which a gateway puts the error that the server behind it returned, and servers put the reasons of an error.
_CAUSES = ("metadata", "raw", "innererror", "cause", "details", "errors")

# Codes and messages which say that nothing failed.
_FINE = frozenset({"", "0", "ok", "success", "successful", "succeeded", "none", "null"})
# Words which say that something failed. They count only if no other field decides.
_FAILED = re.compile(
    "error|exception|fail|denied|forbidden|unauthori[sz]ed|not authori[sz]ed|not allowed|invalid|exceeded|too many requests"
    "|rate limit|overloaded|unavailable|insufficient|timed out|timeout|not found|bad (?:gateway|request)|unable to|cannot"
    "|refused|aborted|quota",
    re.IGNORECASE,
)
_FAILED_STATUS = frozenset({"error", "fail", "failed", "failure"})
# DigitalOcean's id of an error is a name. Ids of requests and completions have digits, hyphens or capitals.
_NAME = re.compile("[a-z]+(?:_[a-z]+)*")

# The beginning of an error that follows other text without a separator. Only the last `_MAX_GLUED` characters are searched, and
# at most `_MAX_STARTS` places are tried.
_START = re.compile(
    r'\{\s*"(?:error|errors|type|id|code|message|detail|object|base_resp|error_code|error_msg|request_id)"\s*:'
)
_MAX_GLUED = 64 * 1024
_MAX_STARTS = 16
_json = json.JSONDecoder(**JSON_OPTIONS)

_TAG = re.compile(r"<(!--|style\b|script\b|[a-z/!?])", re.IGNORECASE)
# Parts of a page that a reader does not see, by the beginning of their tags, each with the end of the part.
_INVISIBLE = {
    "!--": re.compile("-->"),
    "style": re.compile("</style", re.IGNORECASE),
    "script": re.compile("</script", re.IGNORECASE),
}
_ENTITY = re.compile("&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8});", re.IGNORECASE)


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
        content: The body: JSON in one of the shapes above, alone or in an event stream, HTML, text, or nothing.
    """
    try:
        return describe_error(loads(content))
    except DECODE_ERRORS:
        pass
    error = find_glued_error(content)
    if error is not None:
        return error
    text = content[:_MAX_PAGE].decode("utf-8", "replace")
    return ErrorBody(message=escape(visible_words(text)), body=text[:_MAX_TEXT] or None)


def find_error(body: Any) -> ErrorBody | None:
    """Return the error in the payload of an event or in the body of a 2xx reply; None if there is none.

    If the body has choices, only a field ``error`` is an error. Without choices, the body is an error if any field says
    that something failed: a detail, a code or status other than success, ``"success": false``, a message beside
    DigitalOcean's id, or a message about a failure. Any other message is no error, because servers report progress in it.

    Args:
        body: Decoded JSON. Some gateways send a list with one error.
    """
    outer = first_of(body)
    if not is_object(outer):
        return None
    error = outer.get("error")
    if _says_something(error):
        return describe_error(body)
    groq = outer.get("x_groq")
    if is_object(groq) and _says_something(groq.get("error")):
        return describe_error(groq)
    if outer is not body:
        return None
    choices = outer.get("choices")
    if isinstance(choices, list) and choices:
        return None
    # A field ``error`` without content is an error; null, false and 0 mean that there is no error, as do some words.
    empty = error is not None and error != 0 and not _is_fine(error) and not isinstance(choices, list)
    return describe_error(body) if empty or _says_failed(outer) else None


def find_inner_error(body: dict[str, Any]) -> ErrorBody | None:
    """Return the error in one of the fields of an object of unknown shape; None if there is none."""
    for value in body.values():
        if is_object(value) and _says_something(value.get("error")):
            return describe_error(value)
    return None


def describe_error(body: Any) -> ErrorBody:
    """Read a decoded JSON value; the status of the reply, or the type of the event, says that it is an error."""
    outer = first_of(body)
    if not is_object(outer):
        return ErrorBody(message=escape(_message_of(body)), body=body)
    fields = _folded(outer)
    error = _first(fields, _ERRORS) or outer
    number = None if isinstance(error, bool) or not isinstance(error, (int, float)) else error
    if isinstance(error, (bool, int, float)):
        error = outer  # the field has no message: it is true, false or a number
    inner = first_of(error)
    details = _folded(inner) if is_object(inner) else fields
    kind = next((kind for name in _TYPES if isinstance(kind := details.get(name), str) and kind), None)
    code = _first(details, _CODES)
    if code is None:
        code = number if error is outer else _first(fields, _CODES)
    if code is None and error is outer and not outer.get("object"):
        # In DigitalOcean's shape the id names the kind of error. With a field `object`, the id would be a completion's.
        code = outer.get("id")
    # Some servers put a name into `error` and the message beside it, others a list of details behind the message.
    messages = [_message_of(error, _MAX_DEPTH + 1), _cause_of(details)]
    if error is not outer:
        messages.insert(1 if isinstance(error, str) else 0, _message_of(_first(fields, _MESSAGES)))
    text = ""
    for message in messages:
        if message not in text:
            text = f"{text}: {message}" if text else message
    return ErrorBody(
        message=escape(text or _message_of(kind)),
        code=_name(code),
        type=_name(kind),
        param=_name(details.get("param")),
        request_id=_name(fields.get("requestid") or details.get("requestid")),
        body=body,
    )


def find_glued_error(data: bytes) -> ErrorBody | None:
    """Return an error at the end of data that is not JSON as a whole; None if there is no error.

    If a reply breaks off, a gateway writes its own error at that place: in the middle of an event or of a line.
    """
    beginning = data.lstrip()[:1]
    if beginning == b"<":
        return None  # the body is a page of HTML, whose scripts may contain JSON
    text = data[-_MAX_GLUED:].decode("utf-8", "replace")
    for match, _ in zip(_START.finditer(text), range(_MAX_STARTS), strict=False):
        try:
            body, end = _json.raw_decode(text, match.start())
        except DECODE_ERRORS:
            continue
        # An object that stands in the place of a value, with more text after it, is a part of the event that broke off, such as
        # the arguments of a tool call.
        before = text[: match.start()].rstrip()[-1:]
        if beginning in {b"{", b"["} and before in {":", ",", "["} and text[end:].strip():
            continue
        error = None if is_deeper(body) else find_error(body)
        if error is not None:
            return error
    return None


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


# Signs of a failure


def _says_something(error: Any) -> bool:
    """Whether a field ``error`` has content: some servers always send it, with zeros and empty text if nothing failed."""
    return any(error.values()) if is_object(error) else bool(error) and not _is_fine(error)


def _is_fine(error: Any) -> bool:
    """Whether a field ``error`` is a word which means that there is no error."""
    return isinstance(error, str) and bool(error) and error.strip().lower() in _FINE


def _says_failed(body: dict[str, Any]) -> bool:
    fields = _folded(body)
    if any(_says_something(fields.get(name)) for name in _ERRORS if name != "baseresp"):
        return True
    response = fields.get("baseresp")
    if is_object(response) and _is_failure(_folded(response).get("statuscode")):
        return True
    message = _first(fields, _MESSAGES)
    if isinstance(message, str) and message and message.strip().lower() in _FINE:
        return False
    code = _first(fields, _CODES)
    status = fields.get("status")
    if (
        _is_failure(code)
        or (isinstance(status, str) and status.lower() in _FAILED_STATUS)
        or _is_failed_status(status)
        or fields.get("type") == "error"
        or fields.get("object") == "error"
        or any(str(fields.get(name)).lower() == "false" for name in ("success", "ok"))
        or fields.get("detail")
    ):
        return True
    if not message or code is not None:
        return False
    id_ = fields.get("id")
    return (
        any(fields.get(name) for name in ("errormsg", "errmsg", "errormessage"))
        or (isinstance(id_, str) and not fields.get("object") and _NAME.fullmatch(id_) is not None)
        or ("choices" in body and body["choices"] is None)  # a completion without a result has this body
        or _FAILED.search(_message_of(message)[:_MAX_TEXT]) is not None
    )


def _is_failed_status(status: Any) -> bool:
    """Whether a status is an HTTP status of an error, as a number or as text."""
    if isinstance(status, str) and re.fullmatch("[1-5][0-9][0-9]", status):
        status = int(status)
    return isinstance(status, int) and status >= 400  # noqa: PLR2004  # HTTP statuses


def _is_failure(code: Any) -> bool:
    """Whether a code means failure: it is not 0, not a status of success or progress, and not a word for success."""
    if code is None or isinstance(code, (bool, dict, list)):
        return False
    try:
        number = float(code)
    except ValueError:
        return str(code).strip().lower() not in _FINE
    return not (number == 0 or 100 <= number < 300)  # noqa: PLR2004  # HTTP statuses


# Messages and names


def _folded(body: dict[str, Any]) -> dict[str, Any]:
    """Return an object with its names in lower case without underscores and hyphens, in which servers differ."""
    return {
        name.replace("_", "").replace("-", "").lower(): value
        for name, value in islice(body.items(), _MAX_FIELDS)
    }


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first of several fields that is not empty; if all are empty, the first that is not null."""
    values: list[Any] = [fields[name] for name in names if fields.get(name) is not None]
    return next((value for value in values if value), values[0] if values else None)


def _message_of(value: Any, depth: int = _MAX_DEPTH) -> str:
    """Return the message in a value as one line.

    FastAPI sends a list of problems, each with its location. Other frameworks send a list for each field.
    """
    if is_object(value):
        inner = _first(_folded(value), (*_WORDS, "type"))
        if inner is None and depth:
            lists = ((name, item) for name, item in value.items() if _is_list(item))
            inner = [
                f"{name}: {text}"
                for name, item in islice(lists, _MAX_ITEMS)
                if (text := _message_of(item, depth - 1))
            ]
        message = _message_of(inner, depth - 1) if depth else ""
        steps = value.get("loc")
        place = ""
        if isinstance(steps, list):
            place = ".".join(_message_of(step, 0) for step in islice(cast("list[Any]", steps), _MAX_ITEMS))
        return f"{place}: {message}" if place else message
    if isinstance(value, list):
        # The deeper a list is, the fewer of its items are shown: 20 items of each list could be 160,000 in all.
        items = islice(cast("list[Any]", value), (0, 3, 3, _MAX_ITEMS)[min(depth, 3)])
        return "; ".join(filter(None, (_message_of(item, depth - 1) for item in items)))
    return "" if value is None else str(value)[:_MAX_PAGE]


def _cause_of(details: dict[str, Any], depth: int = _MAX_DEPTH) -> str:
    """Return the message of the error of the server behind a gateway, which is an object, JSON as text, or text."""
    for name in _CAUSES:
        cause = details.get(name)
        if isinstance(cause, str):
            body = loads_or_none(cause.encode("utf-8", "replace")) if len(cause) <= _MAX_PAGE else None
            if not is_object(body):
                return visible_words(cause[:_MAX_CAUSE])
            cause = body
        message = ""
        if is_object(cause) and depth:
            fields = _folded(cause)
            message = _cause_of(fields, depth - 1) or _message_of(_first(fields, (*_ERRORS, *_WORDS)))
        elif isinstance(cause, list):
            message = _message_of(cause)
        if message:
            return message
    return ""


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _name(value: Any) -> str | None:
    return None if value is None or isinstance(value, (dict, list)) else escape(str(value), _MAX_NAME)


def visible_words(text: str) -> str:
    """Return the words that a reader of a page sees, approximately; other text is returned on one line.

    These are all texts outside of tags, without styles, scripts and comments, which may be longer than the other text.
    """
    words: list[str] = []
    at = 0
    while (tag := _TAG.search(text, at)) is not None:
        words.append(text[at : tag.start()])
        kind = tag.group(1).lower()
        at = tag.end()
        if kind in _INVISIBLE:
            end = _INVISIBLE[kind].search(text, at)
            if end is None:
                break
            at = end.end()
            if kind == "!--":
                continue
        end_of_tag = text.find(">", at)
        if end_of_tag < 0:
            words.append(text[tag.start() :])
            break
        at = end_of_tag + 1
    else:
        words.append(text[at:])
    return " ".join(_ENTITY.sub(lambda match: html.unescape(match.group()), " ".join(words)).split())
