"""A test server on loopback, which plays scripts down to single socket writes, or simulates a model."""

# The path of a request: tests hold a `server`. Its engine, the `service`, reads requests (`connection`, `request`) and gives
# each request to a handler. The next reply of the `script`, made of `payloads`, is the handler, as long as there is one. After
# that `api` is the handler: it checks paths, keys and `quota`, answers what only browsers ask for (`browser`), and has one of
# two backends. One is the `simulation` of a model (`words`, `schemas`). The other is `replay`, which finds recordings
# (`manifest`, `matching`) and otherwise lets the `recorder` ask another server (`upstream`).

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
