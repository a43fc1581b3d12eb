"""The engine of a server: listens, and answers request after request on each connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from .connection import Connection, Signal
from .payloads import digitalocean_error
from .request import (
    MAX_CHUNK_LINE,
    MAX_HEAD,
    BadRequestError,
    Headers,
    Request,
    body_length,
    chunk_size,
    parse_head,
    within_limit,
)
from .script import Command, Early, Handler, play, reply_json

OnAccept: TypeAlias = "Command | Callable[[Connection], Awaitable[None]]"

_TLS_HANDSHAKE = 22  # the first byte of TLS
# Connections that the kernel keeps until they are accepted. With asyncio's default of 100, more clients than that at once
# wait a second, because the kernel drops their first packet.
_BACKLOG = 1024
_LINGER = 1.0
"""Seconds in which a refused client may finish sending. If it is cut off while it sends, it can't read the refusal."""


class Service:
    """Accepts connections, and answers requests by the script or, after it, by the fallback.

    Attributes:
        script: Replies to come.
        requests: Every request received, in order.
        failures: Exceptions that handlers raised.
        accepted: How many connections were ever accepted.
        open: The connections that are open now, in the order of accepting.
        tasks: The tasks that serve connections.
        changed: Set when a request was received, and when a connection was closed.
    """

    def __init__(
        self,
        replies: Sequence[Handler],
        *,
        fallback: Handler,
        repeat: bool,
        on_accept: OnAccept | None,
        keep_alive: float,
        strict: bool = False,
        faults: Callable[[], Sequence[str]] = tuple,
        on_reply: Callable[[Request], None] | None = None,
    ) -> None:
        self.script = deque(replies)
        self.requests: list[Request] = []
        self.failures: list[Exception] = []
        self.accepted = 0
        self.open: dict[Connection, None] = {}
        self.tasks: dict[asyncio.Task[None], Connection] = {}
        self.changed = Signal()
        self._fallback = fallback
        self._repeat = repeat
        self._on_accept = on_accept
        self._keep_alive = keep_alive
        self._listener: asyncio.Server | None = None
        self._strict = strict
        self._faults = faults
        self._on_reply = on_reply
        self._used = 0

    @property
    def port(self) -> int | None:
        """The port that the service listens on; None if it does not."""
        return self._listener.sockets[0].getsockname()[1] if self._listener else None

    def faults(self) -> list[str]:
        """Return requests without a reply, and scripted replies without a request."""
        left = len(self.script) - (self._used if self._repeat else 0)
        noun = "reply was" if left == 1 else "replies were"
        unused = [f"{left} scripted {noun} not asked for"] if self._strict and left > 0 else []
        return [*self._faults(), *unused]

    async def listen(self, host: str, port: int) -> None:
        """Begin to accept connections."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        create_server = asyncio.get_running_loop().create_server
        self._listener = await create_server(self._accept, host, port, family=family, backlog=_BACKLOG)

    async def close(self) -> None:
        """Close the listener and every connection, and wait until their tasks and transports have ended."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        # A socket that is accepted in one iteration of the loop becomes a connection two iterations later. If the
        # listener is closed in between, asyncio drops the socket without closing it. So accepting has to stop earlier.
        with contextlib.suppress(NotImplementedError):  # Windows' loop has no readers
            asyncio.get_running_loop().remove_reader(listener.sockets[0].fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        listener.close()
        while self.tasks:
            running = dict(self.tasks)
            self.tasks.clear()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for connection in running.values():
                # A task that was cancelled before its first step has not closed its connection.
                connection.transport.abort()
                await connection.wait_lost()
        await listener.wait_closed()

    def _accept(self) -> Connection:
        self.accepted += 1
        return Connection(self.accepted, self._opened, self._gone)

    def _opened(self, connection: Connection) -> None:
        self.open[connection] = None
        task = asyncio.get_running_loop().create_task(self._serve_connection(connection))
        self.tasks[task] = connection
        task.add_done_callback(lambda done: self.tasks.pop(done, None))

    def _gone(self, connection: Connection) -> None:
        del self.open[connection]
        self.changed.set()

    async def _serve_connection(self, connection: Connection) -> None:
        # A ConnectionError means that the peer has closed, which is the usual end of a connection.
        with contextlib.suppress(ConnectionError):
            try:
                if isinstance(self._on_accept, Command):
                    await play([self._on_accept], connection)
                elif self._on_accept is not None:
                    await self._guard(connection, self._on_accept, connection)
                while not connection.closed and await self._answer_next(connection):
                    pass
            except BadRequestError as error:
                await _refuse(connection, error)
        connection.close()
        await connection.wait_lost()

    async def _answer_next(self, connection: Connection) -> bool:
        """Answer one request; return whether the connection may carry another."""
        # The first request has no deadline: of a thousand clients that connect at once, some are slow.
        patience = None if connection.request is None else self._keep_alive
        try:
            async with asyncio.timeout(patience):
                if await connection.first_byte() == _TLS_HANDSHAKE:
                    raise BadRequestError(400, "this server has no TLS: write http:// before its address")
                head = await connection.read_until(b"\r\n\r\n", MAX_HEAD)
        except TimeoutError:
            return False
        if head is None:
            raise BadRequestError(431, f"the headers exceed {MAX_HEAD} bytes, or never end")
        request = parse_head(head, connection.number)
        handler = self._next_handler()
        if not isinstance(handler, Early):
            request.body = await _read_body(connection, request.headers)
            request.received_at = time.monotonic()
        self.requests.append(request)
        self.changed.set()
        connection.request = request
        connection.sent = 0
        connection.answering = True
        succeeded = await self._guard(connection, handler, request, connection)
        connection.answering = False
        request.replied_at = time.monotonic()
        request.reply_size = connection.sent
        if self._on_reply is not None:
            self._on_reply(request)
        options = [option.strip().lower() for option in request.headers.get("connection", "").split(",")]
        reusable = request.version == "1.1" and "close" not in options and not isinstance(handler, Early)
        return succeeded and reusable

    def _next_handler(self) -> Handler:
        if not self.script:
            return self._fallback
        handler = self.script.popleft()
        self._used += 1
        if self._repeat:
            self.script.append(handler)
        return handler

    async def _guard(
        self, connection: Connection, handler: Callable[..., Awaitable[None]], *arguments: object
    ) -> bool:
        """Call a handler. If it raises, return False, and keep the exception for the end of the server's block."""
        try:
            await handler(*arguments)
        except Exception as error:  # noqa: BLE001  # any handler, any error
            if connection.abandoned and isinstance(error, ConnectionError):
                return False
            if connection.request is None or self._on_reply is None:
                self.failures.append(error)
            else:
                connection.request.failure = error
            if connection.sent or connection.closed:
                connection.reset()
            else:
                message = f"a handler of the test server raised {error!r}"
                headers = {"x-should-retry": "false", "connection": "close"}
                await play(
                    reply_json(digitalocean_error("server_error", message), 500, headers).steps, connection
                )
            return False
        return True


async def _refuse(connection: Connection, error: BadRequestError) -> None:
    body = digitalocean_error("bad_request", error.reason)
    await connection.write(reply_json(body, error.status, {"connection": "close"}).data)
    connection.half_close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            await connection.drop_input()


async def _read_body(connection: Connection, headers: Headers) -> bytes:
    length = body_length(headers)
    if length is not None:
        return await connection.read_exactly(length)
    parts: list[bytes] = []
    total = 0
    while size := chunk_size(await connection.read_until(b"\r\n", MAX_CHUNK_LINE)):
        total = within_limit(total + size)
        data = await connection.read_exactly(size + 2)
        if not data.endswith(b"\r\n"):
            raise BadRequestError(400, "a chunk is longer than its size")
        parts.append(data[:-2])
    left = MAX_HEAD
    while (line := await connection.read_until(b"\r\n", left)) != b"\r\n":  # the line is a trailer
        if line is None:
            raise BadRequestError(431, "the trailers never end")
        left -= len(line)
    return b"".join(parts)
