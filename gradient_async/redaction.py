"""Takes keys out of what servers say: some echo the Authorization header in their errors."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from .config import Secret
from .errors import APIError, ResponseInfo
from .types import Headers

__all__ = ["Redactor"]

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
