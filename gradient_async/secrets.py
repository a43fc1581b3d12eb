"""Keys, headers that may hold a key, and the redactor that removes keys from text that servers send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from .errors import APIError, ConfigurationError, ResponseInfo
from .types import Headers, NotGiven

_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie", "x-auth-token"}
)

# In `Authorization: Bearer KEY` only the key is secret. Keys may contain spaces, so a first word that is not listed here
# may be a scheme or the beginning of the key.
_SCHEME = re.compile(r"^(?:apikey|basic|bearer|digest|token) +", re.IGNORECASE)


class Secret:
    """A key that neither repr nor logs nor the locals in a traceback show.

    Args:
        value: The key; white space around it is dropped, single spaces inside are part of it.
        name: Name of the key in errors.

    Raises:
        ConfigurationError: If the key has a character that a header may not have.
    """

    __slots__ = ("_value",)  # no `__dict__`, whose contents debugging tools display

    def __init__(self, value: str, name: str = "key") -> None:
        self._value = value.strip()
        if not re.fullmatch(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*", self._value):
            del value  # a traceback may show the locals of this frame
            raise ConfigurationError(
                f"{name} may contain only visible ASCII and single spaces; copy it again, without line breaks"
            )

    def reveal(self) -> str:
        """Return the key."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


class _HeaderSecret(Secret):
    """A key in a header that the caller gave; it may have any characters."""

    __slots__ = ()

    def __init__(self, value: str) -> None:
        self._value = value


class HiddenHeader(str):
    """The value of a header, not shown in tracebacks with locals: they print the repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


def check_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers after checking that no name or value can end a header early.

    Args:
        headers: Name to value; a value of `NOT_GIVEN` removes the header.

    Raises:
        ConfigurationError: If a name or value cannot be sent; the message does not show the value.
    """
    checked: dict[str, Any] = {}
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigurationError(
                f"header name {name!r} has characters that the name of a header may not have"
            )
        if not isinstance(value, NotGiven):
            value = str(value)  # noqa: PLW2901  # no second local that holds a key
            if re.search(r"[\r\n\0]", value):
                del value, headers  # a traceback may show the locals of this frame
                raise ConfigurationError(f"header {name} has a line break or NUL in its value")
            if name.lower() in _SECRET_HEADERS:
                value = HiddenHeader(value)  # noqa: PLW2901  # no second local that holds a key
        checked[name] = value
    return checked


def hide_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return headers, unchecked, with keys that a traceback with locals does not show.

    Args:
        headers: Name to value, or None.
    """
    return {
        name: HiddenHeader(value) if isinstance(value, str) and name.lower() in _SECRET_HEADERS else value
        for name, value in (headers or {}).items()
    }


def secrets_in(headers: Mapping[str, Any]) -> tuple[Secret, ...]:
    """Return the keys in headers that the caller gave.

    Args:
        headers: Headers from `check_headers`.
    """
    found: list[str] = []
    for name, value in headers.items():
        if not isinstance(value, HiddenHeader):
            continue
        if name.lower() == "cookie":
            found += [(pair.partition("=")[2] or pair).strip() for pair in value.split(";")]
            continue
        key = _SCHEME.sub("", value.strip())
        found.append(key)
        if key == value.strip():
            found.append(key.partition(" ")[2].strip())
    return tuple(_HeaderSecret(key) for key in found if key)


# Shorter keys are not redacted. For a server on their own machine, which needs no key, users give a key such as `x`; to
# redact that would spoil every text.
_MIN_SECRET = 8
# Keys of at least this length are shown with both ends, so that the owner recognizes the key.
_LONG = 12
_SHOWN = 3


class Redactor:
    """Replaces known keys in text, bytes, JSON values and errors.

    Args:
        secrets: The keys.
    """

    def __init__(self, secrets: tuple[Secret, ...]) -> None:
        pairs: dict[str, str] = {}
        for secret in secrets:
            key = secret.reveal()
            if len(key) >= _MIN_SECRET:
                shown = f"{key[:_SHOWN]}…{key[-_SHOWN:]}" if len(key) >= _LONG else "[key]"
                pairs[key] = pairs[key.replace("/", "\\/")] = shown  # some servers escape the slash in JSON
        # The longest first: a key may contain another key.
        self._pairs = sorted(pairs.items(), key=lambda pair: -len(pair[0]))

    def text(self, text: str) -> str:
        """Return text without keys, and without the beginnings of keys: a message may be cut inside a key."""
        for key, shown in self._pairs:
            text = text.replace(key, shown)
        for key, shown in self._pairs:
            # At least half of the key: keys of one provider begin alike, so a shorter beginning may be harmless text.
            stub = key[: max(_MIN_SECRET, (len(key) + 1) // 2)]
            start = text.find(stub)
            while start >= 0:
                end = start + max(_common(text, start, other) for other, _ in self._pairs)
                text = text[:start] + shown + text[end:]
                start = text.find(stub, start + len(shown))
        return text

    def data(self, data: bytes) -> bytes:
        """Return bytes without keys; the same object if there are none."""
        if not any(key[:_MIN_SECRET].encode() in data for key, _ in self._pairs):
            return data
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def value(self, value: Any) -> Any:
        """Return a JSON value without keys in its names and values."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in cast("list[Any]", value)]
        if isinstance(value, dict):
            return {
                self.value(name): self.value(item) for name, item in cast("dict[Any, Any]", value).items()
            }
        return value

    def info(self, info: ResponseInfo) -> ResponseInfo:
        """Return a reply's status, headers and body without keys."""
        return msgspec.structs.replace(
            info,
            content=self.data(info.content),
            headers=Headers((name, self.text(value)) for name, value in info.headers.items()),
        )

    def clean(self, error: APIError) -> None:
        """Remove keys from every attribute of an error that holds text of a server."""
        if not self._pairs:
            return
        error.message = self.text(error.message)
        error.args = (error.message,)
        error.body = self.value(error.body)
        for name in ("code", "type", "param", "request_id"):
            setattr(error, name, self.value(getattr(error, name)))
        if error.response is not None:
            error.response = self.info(error.response)


def _common(text: str, start: int, key: str) -> int:
    """Return how many characters of the text from ``start`` on equal the beginning of the key."""
    length = 0
    while length < len(key) and text[start + length : start + length + 1] == key[length]:
        length += 1
    return length
