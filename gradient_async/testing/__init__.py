"""A test server on loopback, which plays scripts down to single socket writes, or simulates a model."""

from .connection import Connection
from .payloads import chunk, completion, head, http_chunk, sse
from .quota import Quota
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
from .server import Server, ThreadedServer, serve

__all__ = [
    "CLOSE",
    "HALF_CLOSE",
    "HOLD",
    "RESET",
    "Connection",
    "Handler",
    "Headers",
    "Quota",
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
