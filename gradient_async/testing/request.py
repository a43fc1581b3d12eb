"""Requests as the server received them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["Headers", "Request"]

_HIDDEN = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"})


class Headers(Mapping[str, str]):
    """Header fields, found by name in any case; a field that came several times is joined by commas.

    The repr hides what carries keys; reading a field gives every byte of it.

    Args:
        pairs: Names and values in the order received.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = tuple(pairs)
        self._joined: dict[str, str] = {}
        for name, value in self.pairs:
            key = name.lower()
            self._joined[key] = f"{self._joined[key]}, {value}" if key in self._joined else value

    def __getitem__(self, name: str) -> str:
        return self._joined[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)

    def __repr__(self) -> str:
        return repr({name: "(hidden)" if name in _HIDDEN else value for name, value in self.items()})


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """One request.

    Attributes:
        method: For example ``POST``.
        target: Path and query as sent.
        version: ``1.1`` or ``1.0``.
        headers: Header fields.
        body: The body, without its transfer encoding; empty if the reply came before it (`early`).
        connection: Number of the connection it came on, from 1.
        received_at: When it was read in full, in seconds of ``time.monotonic()``.
        closed_at: When the peer was seen to close while the reply was still under way, in the same
            seconds; None if it was not.
    """

    method: str
    target: str
    version: str
    headers: Headers
    body: bytes
    connection: int
    received_at: float
    closed_at: float | None = None

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the query; of those given twice, the last."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def json(self) -> Any:
        """The body, read as JSON.

        Raises:
            ValueError: If it is none.
        """
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}, {len(self.body)} bytes, connection {self.connection}>"
