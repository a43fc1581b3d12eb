"""Keys, and headers that may hold one: none of them shows itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError
from ..types import NotGiven

__all__ = ["HiddenHeader", "Secret", "check_headers", "hide_headers", "secrets_in"]

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
