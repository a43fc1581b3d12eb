"""Lines of batch files: requests in, results out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import msgspec

from ..decoding import known_params
from ..errors import APIError, GradientError, StreamError
from ..types import ChatCompletion

__all__ = ["BAD_LINE", "BadLine", "Key", "Line", "read_lines", "record"]

Key: TypeAlias = str | int
"""What tells a line from others: its custom_id, or else its number."""

BAD_LINE = "BadLine"
"""Type of the error of a line that is no request."""

_BOM = b"\xef\xbb\xbf"
_PATH = "/chat/completions"
# What is said of how to send, and not of what.
_OPTIONS = frozenset({"stream"})
_SHOWN = 80  # characters


class Line(msgspec.Struct, frozen=True):
    """A request.

    Attributes:
        number: Where it stands, from 1.
        custom_id: What the file calls it, or None.
        params: Its parameters, for `map`.
        digest: Tells whether it is the same as before.
    """

    number: int
    custom_id: str | None
    params: dict[str, Any]
    digest: str = ""

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.number if self.custom_id is None else self.custom_id


class BadLine(msgspec.Struct, frozen=True):
    """A line that is no request.

    Attributes:
        number: Where it stands, from 1.
        problem: What is wrong, and what to do.
        custom_id: What the file calls it, as far as it says that.
        digest: Tells whether it is the same as before.
    """

    number: int
    problem: str
    custom_id: str | None = None
    digest: str = ""

    @property
    def key(self) -> Key:
        """What tells it from others: its number, since what it calls itself may be another's name."""
        return self.number


def read_lines(lines: Iterable[bytes], model: str) -> Iterator[Line | BadLine]:
    """Read requests, one line after the other; empty ones are passed over.

    Args:
        lines: Lines of a file, with their ends.
        model: For requests that name none.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
        if not text:
            continue
        found = _read(text, number, model)
        if isinstance(found, Line) and found.custom_id is not None:
            first = seen.setdefault(found.custom_id, number)
            if first != number:
                found = BadLine(
                    number, f"custom_id {_shown(found.custom_id)} was that of line {first}; give it another"
                )
        yield msgspec.structs.replace(found, digest=hashlib.blake2b(text, digest_size=8).hexdigest())


def _read(text: bytes, number: int, model: str) -> Line | BadLine:
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return BadLine(number, f"not JSON ({error}); put one object on each line")
    if not isinstance(data, dict):
        return BadLine(number, "not an object; put one object on each line")
    given = cast("dict[str, Any]", data)
    custom_id: Any = given.pop("custom_id", None)
    if custom_id is not None and not isinstance(custom_id, str):
        return BadLine(number, f"custom_id is no string: {_shown(custom_id)}")
    if "body" in given:
        body = given["body"]
        if str(given.get("method", "POST")).upper() != "POST":
            return BadLine(number, f"method {_shown(given['method'])}: only POST is made", custom_id)
        if not str(given.get("url", _PATH)).endswith(_PATH):
            return BadLine(number, f"url {_shown(given['url'])}: only {_PATH} is called", custom_id)
        if not isinstance(body, dict):
            return BadLine(number, "body is no object", custom_id)
        params = cast("dict[str, Any]", body)
    elif "messages" in given:
        params = given
    else:
        return BadLine(number, 'neither "body" nor "messages"; give a batch line, or parameters', custom_id)
    return Line(number, custom_id, _params(params, model))


def _shown(value: Any) -> str:
    """Show what a line says, as much of it as fits in a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _params(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Turn a body into arguments: what the library does not know goes along all the same."""
    known = known_params() | _OPTIONS
    params = {name: value for name, value in body.items() if name in known}
    extra = {name: value for name, value in body.items() if name not in known}
    params.setdefault("model", model)
    if extra:
        params["extra_body"] = extra
    return params


def record(
    line: Line | BadLine, *, completion: ChatCompletion | None = None, error: GradientError | None = None
) -> bytes:
    """Write a result as a line.

    Args:
        line: What it is the result of.
        completion: What came, or None.
        error: Why nothing came, or None.
    """
    response: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    if completion is not None:
        response = {
            "status_code": 200,
            "request_id": completion.request_id,
            "body": completion.to_dict(),
        }
    elif isinstance(line, BadLine):
        failure = {"type": BAD_LINE, "message": line.problem}
    elif error is not None:
        failure = _failure(error)
    row = {
        "id": completion.id if completion is not None else None,
        "custom_id": line.custom_id,
        "line": line.number,
        "digest": line.digest,
        "response": response,
        "error": failure,
    }
    return msgspec.json.encode(row) + b"\n"


def _failure(error: GradientError) -> dict[str, Any]:
    failure: dict[str, Any] = {"type": type(error).__name__, "message": error.message}
    if isinstance(error, APIError):
        failure |= {
            name: getattr(error, name)
            for name in ("code", "status_code", "request_id", "retry_after", "attempts")
        }
    if isinstance(error, StreamError) and error.partial is not None:
        failure["partial"] = error.partial.to_dict()
    return failure
