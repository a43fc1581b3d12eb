"""The conversation on one connection: request after request, each answered by script or else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from .parsing import BadRequestError, read_body, read_head
from .request import Request
from .script import Command, Early, Handler, play, reply_json
from .wire import Connection, Wire

__all__ = ["OnAccept", "Service"]

OnAccept: TypeAlias = "Command | Callable[[Connection], Awaitable[None]]"

_LINGER = 1.0
"""Seconds to let a refused client finish sending; it could not read the refusal otherwise."""


class Service:
    """What a server does with its connections.

    Args:
        replies: The script.
        fallback: Answers what is not scripted.
        repeat: Begin the script anew when it is used up.
        on_accept: What to do to a new connection before its first request.
        keep_alive: Seconds to wait for another request.

    Attributes:
        script: Replies to come.
        requests: Every request received, in order.
        failures: What handlers raised.
        changed: Set when a request was received, and by the server when a connection was closed.
    """

    def __init__(
        self,
        replies: Sequence[Handler],
        *,
        fallback: Handler,
        repeat: bool,
        on_accept: OnAccept | None,
        keep_alive: float,
    ) -> None:
        self.script = deque(replies)
        self.requests: list[Request] = []
        self.failures: list[Exception] = []
        self.changed = asyncio.Event()
        self._fallback = fallback
        self._repeat = repeat
        self._on_accept = on_accept
        self._keep_alive = keep_alive

    async def converse(self, wire: Wire, connection: Connection) -> None:
        """Serve a connection until either side ends it."""
        try:
            await self._accepted(connection)
            while not connection.closed and await self._exchange(wire, connection):
                pass
        except BadRequestError as error:
            refusal = reply_json(
                {"id": "bad_request", "message": error.reason}, error.status, {"connection": "close"}
            )
            wire.discard()
            await connection.write(refusal.data)
            wire.half_close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    await connection.wait_closed()
        except ConnectionError:
            # The peer has gone, which is how most conversations end.
            pass

    async def _accepted(self, connection: Connection) -> None:
        if self._on_accept is None:
            return
        if isinstance(self._on_accept, Command):
            await play([self._on_accept], connection)
        else:
            await self._guarded(connection, self._on_accept(connection))

    async def _exchange(self, wire: Wire, connection: Connection) -> bool:
        """Serve one request.

        Returns:
            Whether the connection may carry another.
        """
        # A client that has just connected may be slow, where a thousand do it at once.
        patience = None if connection.request is None else self._keep_alive
        try:
            async with asyncio.timeout(patience):
                request = await read_head(wire, connection.number)
        except TimeoutError:
            return False
        handler = self._take()
        if not isinstance(handler, Early):
            request.body = await read_body(wire, request)
            request.received_at = time.monotonic()
        connection.begin(request)
        self.requests.append(request)
        self.changed.set()
        fine = await self._guarded(connection, handler(request, connection))
        connection.end()
        options = [option.strip().lower() for option in request.headers.get("connection", "").split(",")]
        return fine and request.version == "1.1" and "close" not in options and not isinstance(handler, Early)

    async def _guarded(self, connection: Connection, answer: Awaitable[None]) -> bool:
        """Await a handler; what it raises is kept, to be raised where the server's block is left.

        Returns:
            Whether it went well.
        """
        try:
            await answer
        except Exception as error:  # noqa: BLE001  # any handler, any error
            if connection.abandoned and isinstance(error, ConnectionError):
                return False
            self.failures.append(error)
            if connection.sent or connection.closed:
                connection.reset()
            else:
                message = f"a handler of the test server raised {error!r}"
                refusal = reply_json(
                    {"id": "server_error", "message": message},
                    500,
                    {"x-should-retry": "false", "connection": "close"},
                )
                await play(refusal.steps, connection)
            return False
        return True

    def _take(self) -> Handler:
        if not self.script:
            return self._fallback
        handler = self.script.popleft()
        if self._repeat:
            self.script.append(handler)
        return handler
