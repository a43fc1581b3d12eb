"""Keys, headers that may hold one, and the redactor that takes them out of what servers say."""

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

# Of `Authorization: Bearer KEY` only the key is secret. Keys may hold spaces, so any other first word may be a scheme
# or the beginning of the key.
_SCHEME = re.compile(r"^(?:apikey|basic|bearer|digest|token) +", re.IGNORECASE)


class Secret:
    """A key that does not show itself: not in repr, not in logs, not in a traceback's locals.

    Args:
        value: The key; white space around it is dropped, single spaces inside are part of it.
        name: What to call it in errors.

    Raises:
        ConfigurationError: If it has a character that does not belong into a header.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str, name: str = "key") -> None:
        self._value = value.strip()
        if not re.fullmatch(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*", self._value):
            del value  # tracebacks may show locals
            raise ConfigurationError(
                f"{name} may hold visible ASCII and single spaces only; copy it again, without line breaks"
            )

    def reveal(self) -> str:
        """Return the key itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


class _HeaderSecret(Secret):
    """Part of a header that is sent as the caller gave it, whatever its characters are."""

    __slots__ = ()

    def __init__(self, value: str) -> None:
        self._value = value


class HiddenHeader(str):
    """A header's value that a traceback with captured locals does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


def check_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers with names and values that can't end a header early.

    Args:
        headers: Name to value; `NOT_GIVEN` as a value drops the header.

    Raises:
        ConfigurationError: If a name or value can't be sent; the message never shows the value.
    """
    checked: dict[str, Any] = {}
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigurationError(f"header name {name!r} has characters that no header's name may have")
        if not isinstance(value, NotGiven):
            value = str(value)  # noqa: PLW2901  # no second local to hold a key
            if re.search(r"[\r\n\0]", value):
                del value, headers  # tracebacks may show locals
                raise ConfigurationError(f"header {name} has a line break or NUL in its value")
            if name.lower() in _SECRET_HEADERS:
                value = HiddenHeader(value)  # noqa: PLW2901  # likewise
        checked[name] = value
    return checked


def hide_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return headers whose keys a traceback with captured locals does not show; unchecked.

    Args:
        headers: Name to value, or None.
    """
    return {
        name: HiddenHeader(value) if isinstance(value, str) and name.lower() in _SECRET_HEADERS else value
        for name, value in (headers or {}).items()
    }


def secrets_in(headers: Mapping[str, Any]) -> tuple[Secret, ...]:
    """Return the keys that headers of the caller's own bring along.

    Args:
        headers: Checked headers.
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


# Keys made up for servers that need none may be as short as a letter; those are no secret.
_SHORTEST = 8
# From this length on a key's ends may show, so that its owner knows which one it was.
_LONG = 12
_ENDS = 3


class Redactor:
    """Replaces known keys in text, bytes, JSON values and errors.

    Args:
        secrets: The keys.
    """

    __slots__ = ("_pairs",)

    def __init__(self, secrets: tuple[Secret, ...]) -> None:
        pairs: dict[str, str] = {}
        for secret in secrets:
            key = secret.reveal()
            if len(key) >= _SHORTEST:
                shown = f"{key[:_ENDS]}…{key[-_ENDS:]}" if len(key) >= _LONG else "[key]"
                pairs[key] = pairs[key.replace("/", "\\/")] = shown  # as some write it in JSON
        # A key that holds another is replaced first.
        self._pairs = sorted(pairs.items(), key=lambda pair: -len(pair[0]))

    def text(self, text: str) -> str:
        """Return text without keys, nor beginnings of keys that were cut short."""
        for key, shown in self._pairs:
            text = text.replace(key, shown)
        for key, shown in self._pairs:
            stub = key[: max(_SHORTEST, (len(key) + 1) // 2)]
            start = text.find(stub)
            while start >= 0:
                end = start + max(_common(text, start, other) for other, _ in self._pairs)
                text = text[:start] + shown + text[end:]
                start = text.find(stub, start + len(shown))
        return text

    def data(self, data: bytes) -> bytes:
        """Return bytes without keys; the same object where there are none."""
        if not any(key[:_SHORTEST].encode() in data for key, _ in self._pairs):
            return data
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def value(self, value: Any) -> Any:
        """Return a JSON value without keys, in names as well as in values."""
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
        """Return status, headers and body without keys."""
        return msgspec.structs.replace(
            info,
            content=self.data(info.content),
            headers=Headers((name, self.text(value)) for name, value in info.headers.items()),
        )

    def clean(self, error: APIError) -> None:
        """Take keys out of an error, wherever a server's words are in it."""
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
    """How many characters from there on are the beginning of a key."""
    length = 0
    while length < len(key) and text[start + length : start + length + 1] == key[length]:
        length += 1
    return length
