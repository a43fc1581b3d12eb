"""Compares requests with recorded requests, and removes keys from recordings. Pure: values in, values out."""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from ..secrets import HiddenHeader, Redactor, names_secret, secrets_in
from ..types.model import build_tables
from .request import Request

REPLACEMENT = "***"

# Matches keys of other people, in prompts and answers. A short key must begin a word, because `task-force` contains no key. A
# long key with a digit counts anywhere, because the characters before it may be an escape (`\nsk-`).
_KEYS = re.compile(
    r"(?<![0-9A-Za-z])sk-[\w-]{8,}|sk-(?=[A-Za-z_-]{0,200}[0-9])[\w-]{16,}|do[opr]_v1_\w+", re.ASCII
)
# Fields of a body whose value is a key. `prompt_cache_key` and `max_tokens` are not among them.
_SECRET_FIELD = re.compile(
    r"(?:api|access|private|secret)[-_]?key|(?:access|api|auth|bearer|refresh)[-_]?token|authorization"
    r"|\w*(?:credential|password|secret)s?",
    re.IGNORECASE,
)
_SHOWN = 60  # maximum characters of a value in a message
_NOTHING = object()


class RecordedRequest(msgspec.Struct):
    """A request in the manifest, without headers and keys.

    Attributes:
        method: For example ``POST``.
        path: The path, without the query.
        query: The query, unchanged except for keys.
        digest: Digest of the other fields; requests with the same digest get the same reply.
        body: The JSON value; text if the body is not JSON; None without a body.
    """

    method: str
    path: str
    query: str = ""
    digest: str = ""
    body: Any = None

    def seal(self, ignore: Sequence[str]) -> None:
        """Compute the digest, without the fields of the body at the dotted paths in ``ignore``."""
        parts = [self.method, self.path, _pairs(self.query), leave_out(self.body, ignore)]
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        self.digest = hashlib.sha256(text.encode()).hexdigest()


build_tables(RecordedRequest)


def load_json(data: bytes) -> Any:
    """Decode JSON; ``2`` and ``2.0`` become the same value.

    Raises:
        ValueError: If the data is not JSON, or has a number that is too large.
    """
    return json.loads(data, parse_float=_parse_float, parse_constant=_parse_float)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a number of JSON, or too large")
    return int(number) if number.is_integer() else number


def _pairs(query: str) -> list[tuple[str, str]]:
    return sorted(parse_qsl(query, keep_blank_values=True))


def leave_out(body: Any, ignore: Sequence[str]) -> Any:
    """Return a body without the fields at some dotted paths."""
    for path in ignore:
        body = _without(body, path.split("."))
    return body


def _without(value: Any, path: list[str]) -> Any:
    """Return a value without the field at a path.

    In a list, a part of the path that is not an index applies to every item.
    """
    first, *rest = path
    if isinstance(value, dict):
        return {
            name: _without(item, rest) if name == first else item
            for name, item in cast("dict[str, Any]", value).items()
            if rest or name != first
        }
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if not first.isdecimal():
            return [_without(item, path) for item in items]
        return [
            _without(item, rest) if number == int(first) else item
            for number, item in enumerate(items)
            if rest or number != int(first)
        ]
    return value


def nearest(
    asked: RecordedRequest, recorded: Iterable[tuple[str, RecordedRequest]], ignore: Sequence[str]
) -> str:
    """Name the recorded request that differs least from the one asked for, and the first difference."""
    body = leave_out(asked.body, ignore)
    found: list[tuple[bool, int, str]] = []
    for file, request in recorded:
        differences = [
            *_differences("path", request.path, asked.path),
            *_differences("method", request.method, asked.method),
        ]
        elsewhere = bool(differences)
        if _pairs(request.query) != _pairs(asked.query):
            differences += _differences("query", request.query, asked.query)
        differences += _differences("$", leave_out(request.body, ignore), body)
        found.append((elsewhere, len(differences), f"nearest is {file}: {differences[0]}"))
    return min(found, key=lambda entry: entry[:2])[2] if found else "nothing is recorded"


def _differences(path: str, recorded: object, asked: object) -> Iterator[str]:
    differ = type(recorded) is not type(asked) or recorded != asked  # in Python, True is equal to 1
    if isinstance(recorded, dict) and isinstance(asked, dict):
        had, has = cast("dict[str, Any]", recorded), cast("dict[str, Any]", asked)
        for name in {**had, **has}:
            yield from _differences(f"{path}.{name}", had.get(name, _NOTHING), has.get(name, _NOTHING))
    elif isinstance(recorded, list) and isinstance(asked, list):
        old, new = cast("list[Any]", recorded), cast("list[Any]", asked)
        for number in range(max(len(old), len(new))):
            before, after = (items[number] if number < len(items) else _NOTHING for items in (old, new))
            yield from _differences(f"{path}[{number}]", before, after)
    elif differ:
        start = _common(recorded, asked) if isinstance(recorded, str) and isinstance(asked, str) else 0
        yield f"{path} differs: {_shown(recorded, start)} recorded, {_shown(asked, start)} asked"


def _common(one: str, other: str) -> int:
    """Return the position from which to show two texts: shortly before the first difference."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return max(0, same - _SHOWN // 2) if max(len(one), len(other)) > _SHOWN else 0


def _shown(value: Any, start: int) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, str):
        return f"{'…' if start else ''}{value[start : start + _SHOWN]!r}{'…' if len(value) > start + _SHOWN else ''}"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class Redaction:
    """Replaces the keys of one request, and everything that looks like a key, by ``***``.

    Args:
        request: The request, with keys in its headers, in its query and in fields of its body.
    """

    def __init__(self, request: Request) -> None:
        body: Any = None
        try:
            body = load_json(request.body) if request.body else None
            secrets = list(_secrets_of(body))
            self._redactor = Redactor(secrets_in(_hidden(request, secrets)))
            body = self._value(body)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than any client nests
            self._redactor = Redactor(secrets_in(_hidden(request, ())))
            body = self.text(request.body.decode("utf-8", "backslashreplace"))
        path, _, query = request.target.partition("?")
        self.request = RecordedRequest(request.method, self.text(path), self._query(query), body=body)

    def text(self, text: str) -> str:
        """Return text without keys."""
        return _replace(text, self._places(text))

    def reads(self, data: bytes, sizes: Iterable[int]) -> tuple[bytes, list[int]]:
        """Return a body without keys, and the new sizes of its reads. A key that spans two reads is replaced in the first."""
        # latin-1 makes one character of each byte, so that positions of characters are positions of bytes.
        text = data.decode("latin-1")
        places = self._places(text)
        starts = [start for start, _ in places]
        removed = [0, *accumulate(end - start - len(REPLACEMENT) for start, end in places)]
        corrected: list[int] = []
        done = 0
        for cut in accumulate(sizes):
            # Number of keys that begin before the cut; the cut may be inside the last of these keys.
            before = bisect_left(starts, cut)
            at = max(cut, places[before - 1][1]) - removed[before] if before else cut
            corrected.append(at - done)
            done = at
        return _replace(text, places).encode("latin-1"), corrected

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Return the start and end of each key, in order; keys that overlap count as one."""
        found = [(start, end) for start, end, _ in self._redactor.places(text)]
        found += [match.span() for match in _KEYS.finditer(text)]
        places: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if places and start <= places[-1][1]:
                places[-1] = (places[-1][0], max(end, places[-1][1]))
            else:
                places.append((start, end))
        return places

    def _query(self, query: str) -> str:
        pairs = [pair.partition("=") for pair in query.split("&")]
        return "&".join(
            f"{name}{equals}{REPLACEMENT if value and names_secret(name) else self.text(value)}"
            for name, equals, value in pairs
        )

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._value(item) for item in cast("list[Any]", value)]
        if isinstance(value, dict):
            return {
                self.text(name): self._value(item) for name, item in cast("dict[str, Any]", value).items()
            }
        return value


def _replace(text: str, places: Iterable[tuple[int, int]]) -> str:
    pieces: list[str] = []
    end = 0
    for start, stop in places:
        pieces += (text[end:start], REPLACEMENT)
        end = stop
    return "".join([*pieces, text[end:]])


def _hidden(request: Request, secrets: Iterable[str]) -> dict[str, HiddenHeader]:
    """Return the keys of a request as headers, because the redactor takes its keys from headers."""
    query = parse_qsl(request.target.partition("?")[2])
    named = [(name, value) for name, value in (*request.headers.items(), *query) if names_secret(name)]
    hidden = {name: HiddenHeader(value) for name, value in named}
    return hidden | {f"{number} of the body": HiddenHeader(value) for number, value in enumerate(secrets)}


def _secrets_of(value: Any) -> Iterator[str]:
    """Yield the values of the fields of a body that hold keys."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _secrets_of(item)
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            if isinstance(item, str) and _SECRET_FIELD.fullmatch(name):
                yield item
            else:
                yield from _secrets_of(item)
