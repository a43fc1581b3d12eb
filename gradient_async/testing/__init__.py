"""A server on loopback to test with: scripted to the last socket write, or simulating a model.

Nothing is loaded until it is used, so that the pytest plugin costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._threaded import ThreadedServer
    from .payloads import chunk, completion, head, http_chunk, sse
    from .request import Headers, Request
    from .script import (
        CLOSE,
        HALF_CLOSE,
        HOLD,
        RESET,
        Handler,
        Reply,
        early,
        forever,
        reply_bytes,
        reply_json,
        reply_sse,
        reply_writes,
    )
    from .server import Server, serve
    from .wire import Connection

__all__ = [
    "CLOSE",
    "HALF_CLOSE",
    "HOLD",
    "RESET",
    "Connection",
    "Handler",
    "Headers",
    "Reply",
    "Request",
    "Server",
    "ThreadedServer",
    "chunk",
    "completion",
    "early",
    "forever",
    "head",
    "http_chunk",
    "reply_bytes",
    "reply_json",
    "reply_sse",
    "reply_writes",
    "serve",
    "sse",
]

_HOMES = {
    "_threaded": ("ThreadedServer",),
    "payloads": ("chunk", "completion", "head", "http_chunk", "sse"),
    "request": ("Headers", "Request"),
    "script": (
        "CLOSE",
        "HALF_CLOSE",
        "HOLD",
        "RESET",
        "Handler",
        "Reply",
        "early",
        "forever",
        "reply_bytes",
        "reply_json",
        "reply_sse",
        "reply_writes",
    ),
    "server": ("Server", "serve"),
    "wire": ("Connection",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
