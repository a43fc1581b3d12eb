"""Keys, headers that may hold a key, and the redactor that removes keys from text that servers send."""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

import msgspec

from .errors import APIError, ConfigurationError, ResponseInfo
from .types import Headers, is_given

_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie", "x-auth-token"}
)

# Matches names of headers whose values are not shown, also of headers that this library does not know: `X-Goog-Api-Key`,
# `CF-Access-Client-Secret`, `Set-Cookie`.
_SECRET_NAME = re.compile("auth|cookie|credential|key|pass|secret|session|signature|token", re.IGNORECASE)
_REPLACEMENT = "[key]"

# In `Authorization: Bearer KEY` only the key is secret. Keys may contain spaces, so a first word that is not listed here
# may be a scheme or the beginning of the key.
_SCHEME = re.compile(r"^(?:apikey|basic|bearer|digest|token) +", re.IGNORECASE)

# Headers that say where the body of a request ends. A wrong one would cut the body, or let the server take the next request
# on the connection for a part of this one.
_FRAMING = frozenset({"content-length", "transfer-encoding"})

# Characters that would end a header early, that cannot be encoded, or that servers and proxies interpret differently.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def unwrap(value: Any) -> Any:
    """Return the key in an object that hides it, such as pydantic's SecretStr; return any other object unchanged."""
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


class Secret:
    """A key that is not shown by repr, in logs, or among the locals in a traceback.

    Args:
        value: The key, or an object with ``get_secret_value()``. White space around the key is removed; single spaces
            inside the key are part of it.
        name: Name of the key in errors.

    Raises:
        TypeError: If the key is not a str.
        ConfigurationError: If the key has a character that a header may not have.
    """

    __slots__ = ("_value",)  # no `__dict__`, whose contents debugging tools display

    def __init__(self, value: object, name: str = "key") -> None:
        value = unwrap(value)
        if not isinstance(value, str):
            kind = type(value).__name__
            del value  # a traceback may show the locals of this frame
            raise TypeError(f"{name}: expected a str, not {kind}")
        self._value = str.__str__(value).strip()
        if not re.fullmatch(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*", self._value):
            del value  # a traceback may show the locals of this frame
            raise ConfigurationError(
                f"{name} may contain only visible ASCII and single spaces; copy it again, without line breaks"
            )

    def reveal(self) -> str:
        """Return the key."""
        return self._value

    get_secret_value = reveal

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        # The first two protocols of pickle need this method, because the class has slots.
        return type(self), (self._value,)


class _HeaderSecret(Secret):
    """A key in a header that the caller gave; it may have any characters."""

    __slots__ = ()

    def __init__(self, value: str) -> None:
        self._value = value


class HiddenHeader(str):
    """The value of a header. Its repr hides it, because tracebacks with locals print the repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class _WrongHeader(NamedTuple):
    """Replaces a value of the wrong type in a header that may hold a key."""

    kind: str


def check_headers(headers: Any) -> dict[str, Any]:
    """Return headers after checking that each can be sent, and that none ends early.

    Args:
        headers: Name to value, each a str or ASCII bytes; a value of `NOT_GIVEN` removes the header.

    Raises:
        TypeError: If a name or value is of another type.
        ConfigurationError: If a name or value has characters that cannot be sent. No message shows a value.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers: expected a dict, not {type(headers).__name__}")
    checked: dict[str, Any] = {}
    for given_name, value in cast("Mapping[Any, Any]", headers).items():
        name = _header_text(given_name)
        if name is None:
            del value, headers  # a traceback may show the locals of this frame
            raise TypeError(f"name of a header: expected a str, not {type(given_name).__name__}")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigurationError(
                f"header name {name!r} has characters that the name of a header may not have"
            )
        if is_given(value):
            kind = value.kind if isinstance(value, _WrongHeader) else type(value).__name__
            value = _header_text(value)  # noqa: PLW2901  # no second local that holds a key
            if value is None:
                del headers  # a traceback may show the locals of this frame
                raise TypeError(f"header {name}: expected a str, not {kind}")
            if name.lower() in _FRAMING:
                raise ConfigurationError(
                    f"header {name} belongs to the body of the request, and is set by the library; leave it out"
                )
            if _CONTROLS.search(value):
                del value, headers  # a traceback may show the locals of this frame
                raise ConfigurationError(
                    f"header {name} has a line break or another control character in its value"
                )
            if name.lower() in _SECRET_HEADERS:
                value = HiddenHeader(value)  # noqa: PLW2901  # no second local that holds a key
        checked[name] = value
    return checked


def hide_headers(headers: Mapping[Any, Any] | None) -> dict[Any, Any]:
    """Return headers, unchecked, with keys that a traceback with locals does not show.

    Args:
        headers: Name to value, or None.
    """
    hidden: dict[Any, Any] = {}
    for name, value in (headers or {}).items():
        name_text, text = _header_text(name), _header_text(value)
        if (
            value is None
            or not is_given(value)
            or (name_text is not None and name_text.lower() not in _SECRET_HEADERS)
        ):
            hidden[name] = value
        else:
            hidden[name] = _WrongHeader(type(value).__name__) if text is None else HiddenHeader(text)
    return hidden


def names_secret(name: str) -> bool:
    """Whether a header or parameter of this name may hold a key."""
    return _SECRET_NAME.search(name) is not None


def redacted_headers(headers: Mapping[str, str], key: Secret | None, redactor: Redactor) -> Headers:
    """Return headers for users to look at, without keys.

    Args:
        headers: Headers from `check_headers`, without `NOT_GIVEN`.
        key: The key of the header ``Authorization``, if there is one.
        redactor: Removes known keys.
    """
    shown = {} if key is None else {"Authorization": f"Bearer {_REPLACEMENT}"}
    for name, value in headers.items():
        if names_secret(name):
            scheme = _SCHEME.match(value)
            shown[name] = (scheme.group() if scheme else "") + _REPLACEMENT
        else:
            shown[name] = redactor.text(value)
    return Headers(shown.items())


def _header_text(text: object) -> str | None:
    """Return the name or value of a header as text; None if it has another type."""
    if isinstance(text, str):
        return str.__str__(text)
    return text.decode() if isinstance(text, bytes) and text.isascii() else None


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

# Escapes of URLs, JSON (also JSON inside JSON) and HTML. A run of backslashes is one match: one match for each of its
# backslashes would take quadratic time.
_ESCAPE = re.compile(
    r"""%([0-7][0-9a-f])|\\+(?:u00([0-7][0-9a-f])|x([0-7][0-9a-f])|(["'/]))?|&(?:\#0*([0-9]{2,3})|\#x0*([0-7][0-9a-f])|([a-z]{2,4}));""",
    re.IGNORECASE,
)
_ENTITIES = {"amp": "&", "apos": "'", "gt": ">", "lt": "<", "quot": '"'}
_MAX_ESCAPED = 3  # maximum layers of escapes that are removed: JSON inside JSON inside a URL


class Redactor:
    """Replaces known keys in text, bytes, JSON values and errors.

    Servers repeat parts of a request in other forms: escaped for a URL, JSON or HTML, as base64 (also inside a longer
    text), or as hexadecimal digits, in capitals or not. A message may also be cut inside a key. All forms are found in
    linear time, because a hostile server chooses the text.

    Args:
        secrets: The keys.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._keys = [key for key in (secret.reveal() for secret in secrets) if len(key) >= _MIN_SECRET]

    def __repr__(self) -> str:
        return "Redactor(…)"

    @cached_property
    def _forms(self) -> list[tuple[str, str, str]]:
        """The texts to find: each form of each key in lower case, the beginning that is enough, and the replacement."""
        forms: dict[str, str] = {}
        for key in self._keys:
            shown = f"{key[:_SHOWN]}…{key[-_SHOWN:]}" if len(key) >= _LONG else _REPLACEMENT
            for form in _forms_of(key):
                forms.setdefault(form.lower(), shown)
        # A shorter beginning would be found in any text, because keys of one provider have the same beginning. A longer one
        # would leave more of a key that was cut: messages and bodies are cut before keys are removed, at any character.
        return [(form, form[:_MIN_SECRET], shown) for form, shown in forms.items()]

    def text(self, text: str) -> str:
        """Return text without keys, and without the beginnings of keys; the same object if there are none."""
        found = self.places(text)
        if not found:
            return text
        pieces: list[str] = []
        end = 0
        # Places overlap if one key contains another. The widest of them decides about the replacement.
        for start, stop, shown in _joined(sorted(found)):
            pieces += (text[end:start], shown)
            end = stop
        return "".join([*pieces, text[end:]])

    def places(self, text: str) -> list[tuple[int, int, str]]:
        """Return the places of all keys, unsorted, each with start, end and replacement; places may overlap."""
        return self._find(text, _MAX_ESCAPED)

    def _find(self, text: str, rounds: int) -> list[tuple[int, int, str]]:
        """Return the places of keys within so many layers of escapes."""
        found: list[tuple[int, int, str]] = []
        lower = text.replace(
            "İ", "i"
        ).lower()  # as long as the text, because no other letter becomes longer in lower case
        for form, beginning, shown in self._forms:
            start = lower.find(beginning)
            while start >= 0:
                found.append((start, start + _common(lower, start, form), shown))
                start = lower.find(beginning, start + 1)
        if rounds and self._keys:
            plain = _Unescaped(text)
            if plain.text != text:
                found += [
                    (plain.place(start), plain.place(end), shown)
                    for start, end, shown in self._find(plain.text, rounds - 1)
                ]
        return found

    def data(self, data: bytes) -> bytes:
        """Return bytes without keys; the same object if there are none."""
        text = data.decode("utf-8", "surrogateescape")
        redacted = self.text(text)
        return data if redacted is text else redacted.encode("utf-8", "surrogateescape")

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
            headers=Headers((self.text(name), self.text(value)) for name, value in info.headers.items()),
        )

    def clean(self, error: APIError) -> None:
        """Remove keys from every attribute of an error that holds text of a server."""
        if not self._keys:
            return
        error.message = self.text(error.message)
        error.args = (error.message,)
        error.body = self.value(error.body)
        for name in ("code", "type", "param", "request_id"):
            setattr(error, name, self.value(getattr(error, name)))
        if error.response is not None:
            error.response = self.info(error.response)
        partial = getattr(error, "partial", None)
        if partial is not None:  # all other text in it comes from the model, and was delivered
            partial.request_id = self.value(partial.request_id)


def _forms_of(key: str) -> Iterator[str]:
    """Yield the forms of a key that removing escapes does not turn into the key."""
    yield key
    yield key.replace(" ", "+")  # the form of the key in the query of a URL
    data = key.encode()
    yield data.hex()
    yield data.hex().upper()
    # Base64 encodes three bytes as four characters, so the characters of a key depend on the number of bytes before it. The
    # characters that also hold bits of other bytes are left out.
    for others in range(3):
        encoded = base64.b64encode(bytes(others) + data).decode()
        form = encoded[(8 * others + 5) // 6 : 8 * (others + len(data)) // 6]
        yield form
        yield form.replace("+", "-").replace("/", "_")


def _common(text: str, start: int, key: str) -> int:
    """Return how many characters at this place of the text are equal to the beginning of the key."""
    if text.startswith(key, start):
        return len(key)
    length, too_long = 0, len(key)
    while too_long - length > 1:
        middle = (length + too_long) // 2
        if text.startswith(key[:middle], start):
            length = middle
        else:
            too_long = middle
    return length


def _joined(places: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Join places that overlap; the places must be sorted by their starts."""
    first = last = widest = -1
    text = ""
    for start, end, shown in places:
        if start >= last:
            if last >= 0:
                yield first, last, text
            first = start
            widest = -1
        if end - start > widest:
            widest, text = end - start, shown
        last = max(last, end)
    yield first, last, text


class _Unescaped:
    """A text without its escapes, which knows the position of each character in the escaped text.

    Attributes:
        text: The text without escapes.
    """

    def __init__(self, escaped: str) -> None:
        pieces: list[str] = []
        # Positions at which a run of unchanged characters begins or ends: in this text, and in the escaped text.
        self._here, self._there = [0], [0]
        length = end = 0
        for match in _ESCAPE.finditer(escaped):
            start = match.start()
            character = _character_of(match)
            pieces += (escaped[end:start], character)
            length += start - end
            end = match.end()
            self._here += (length, length + len(character))
            self._there += (start, end)
            length += len(character)
        self.text = "".join([*pieces, escaped[end:]])

    def place(self, position: int) -> int:
        """Return the position in the escaped text that belongs to a position in this text."""
        at = bisect_right(self._here, position) - 1
        return self._there[at] + position - self._here[at]


def _character_of(escape: re.Match[str]) -> str:
    """Return the character that an escape stands for; a run of backslashes stands for half as many."""
    of_url, of_json, of_python, quoted, decimal, hexadecimal, name = escape.groups()
    digits = of_url or of_json or of_python or hexadecimal
    if digits:
        return chr(int(digits, 16))
    if quoted:
        return quoted
    if decimal:
        return chr(int(decimal))
    if name:
        return _ENTITIES.get(name.lower(), escape.group())
    return "\\" * ((len(escape.group()) + 1) // 2)
