"""Sessions of aiohttp, as they are here, and what is sent over them."""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractCookieJar, AbstractStreamWriter

from ..config import Limits
from .deadlines import tracing
from .direct import Connector
from .protocol import Response, handler_class, known

__all__ = [
    "authorizing",
    "body_of",
    "make_session",
]

# Pooled connections are dropped before the servers we know drop theirs.
_IDLE_SECONDS = 14.0
# When nothing is heard of a peer: the first probe after so many seconds, then one each, so many in all.
_PROBE_AFTER, _PROBE_EVERY, _PROBES = 60, 15, 4
_WRITTEN_AT_ONCE = 256 * 1024  # bytes of a request's body


def authorizing(value: str) -> aiohttp.ClientMiddlewareType:
    """Make a middleware that sets ``Authorization`` last, over what aiohttp found in ``.netrc``.

    Args:
        value: The header's value.
    """

    async def put(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = value
        return await handler(request)

    return put


class _LargeBody(aiohttp.payload.Payload):
    """A request's body of megabytes, written in pieces, so that the loop and an early refusal get their turn."""

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        view = memoryview(self._value)
        for start in range(0, len(view), _WRITTEN_AT_ONCE):
            await writer.write(view[start : start + _WRITTEN_AT_ONCE])


def body_of(data: bytes | None) -> bytes | aiohttp.payload.Payload | None:
    """Return a request's body as aiohttp is to write it."""
    return data if data is None or len(data) <= _WRITTEN_AT_ONCE else _LargeBody(data)


def make_session(*, max_connections: int, trust_env: bool, limits: Limits) -> aiohttp.ClientSession:
    """Open a session: no cookies, no decompression, no header of aiohttp's own, bounded replies.

    Args:
        max_connections: Connections at a time.
        trust_env: Let aiohttp read proxies and ``.netrc`` from the environment.
        limits: Sizes of headers, unless a request has others.
    """
    connector = Connector(
        limit=max_connections, limit_per_host=0, keepalive_timeout=_IDLE_SECONDS, socket_factory=_open_socket
    )
    factory: Any = functools.partial(handler_class(), loop=asyncio.get_running_loop())
    connector._factory = factory  # noqa: SLF001  # aiohttp has no public way
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=_no_cookies(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=trust_env,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        trace_configs=[tracing()],
        response_class=Response,
        max_line_size=limits.header_bytes,
        max_field_size=limits.header_bytes,
        max_headers=limits.headers,
    )
    # Proxies and `.netrc` are aiohttp's affair, and instruments put their own signals beside ours. What requests and
    # responses are made with is not promised from one version to the next.
    connector.direct = not trust_env and len(session.trace_configs) == 1 and known()
    return session


def _open_socket(address: Any) -> socket.socket:
    """Make a socket that finds out when its peer has vanished without a word."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not every system lets these be set.
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER),
        ("TCP_KEEPINTVL", _PROBE_EVERY),
        ("TCP_KEEPCNT", _PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _no_cookies() -> AbstractCookieJar:
    return aiohttp.DummyCookieJar()
