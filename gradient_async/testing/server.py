"""The server: accepts, reads requests, plays replies, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from .replay import Recordings
from .routes import Routes
from .script import Handler
from .service import OnAccept, Service
from .simulation import Simulation
from .wire import Connection, Wire

if TYPE_CHECKING:
    from ._threaded import ThreadedServer

__all__ = ["Server", "serve"]


class _Door(socket.socket):
    """A listening socket that can be told to let nobody in any more, before it is closed."""

    shut = False

    @classmethod
    def at(cls, host: str, port: int) -> Self:
        door = cls(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            if sys.platform != "win32":
                # A port given by number can be taken again at once; Windows has another meaning for it.
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind((host, port))
        except BaseException:
            door.close()
            raise
        return door

    def accept(self) -> tuple[socket.socket, Any]:
        if self.shut:
            raise BlockingIOError
        return super().accept()


class Server:
    """A server on loopback; made by `serve`, run by ``async with`` or ``with``.

    Attributes:
        requests: Every request received, in order; those still being answered included.
        connections: How many connections were ever accepted.
    """

    def __init__(self, service: Service, *, host: str, port: int) -> None:
        self.requests = service.requests
        self.connections = 0
        self._service = service
        self._host = host
        self._port = port
        self._listener: asyncio.Server | None = None
        self._open: dict[Wire, Connection] = {}
        self._tasks: dict[asyncio.Task[None], Wire] = {}
        self._thread: ThreadedServer | None = None

    def __repr__(self) -> str:
        where = self.url if self._listener else "not running"
        return f"<Server {where}, {len(self.requests)} requests, {self.open_connections} open connections>"

    @property
    def port(self) -> int:
        """The port listened on.

        Raises:
            RuntimeError: If the server is not running.
        """
        if self._listener is None:
            raise RuntimeError("the server is not running: enter it by 'async with' or 'with' first")
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Base URL, to be given as ``inference_endpoint`` or ``agent_endpoint``."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open now; one that the peer has closed is not."""
        return len(self._open)

    @property
    def pending(self) -> int:
        """How many scripted replies have not been used yet."""
        return len(self._service.script)

    def push(self, *replies: Handler) -> None:
        """Add replies to the script.

        Args:
            *replies: One a request, in order, after those that are still to come.
        """
        self._service.script.extend(replies)

    async def wait_requests(self, count: int = 1, *, timeout: float = 1.0) -> None:  # noqa: ASYNC109  # see _wait
        """Wait until requests have come.

        Args:
            count: How many, from the start of the server.
            timeout: Seconds to wait for that.

        Raises:
            TimeoutError: If there are fewer even then.
        """
        await self._wait(
            lambda: len(self.requests) >= count,
            timeout,
            lambda: f"{len(self.requests)} requests came within {timeout} s, {count} expected",
        )

    async def wait_closed_connections(self, count: int = 0, *, timeout: float = 1.0) -> None:  # noqa: ASYNC109  # see _wait
        """Wait until few connections are open.

        Args:
            count: How many may stay open.
            timeout: Seconds to wait for that.

        Raises:
            TimeoutError: If more are open even then.
        """
        await self._wait(
            lambda: self.open_connections <= count,
            timeout,
            lambda: (
                f"{self.open_connections} connections are still open after {timeout} s, {count} expected: "
                f"{list(self._open.values())}"
            ),
        )

    async def _wait(self, reached: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
        # A parameter, and not asyncio.timeout around the call: so the error can say what did not happen.
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    self._service.changed.clear()
                    await self._service.changed.wait()
        except TimeoutError:
            raise TimeoutError(complaint()) from None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(error)

    async def start(self) -> None:
        """Listen; ``async with`` does it on entering.

        Raises:
            OSError: If the address is taken.
            RuntimeError: If the server runs already.
        """
        if self._listener is not None:
            raise RuntimeError(f"the server runs already, at {self.url}")
        loop = asyncio.get_running_loop()
        self._door = _Door.at(self._host, self._port)
        self._listener = await loop.create_server(lambda: Wire(self._opened, self._gone), sock=self._door)

    async def stop(self, error: BaseException | None = None) -> None:
        """Close the listener and every connection; ``async with`` does it on leaving.

        Args:
            error: What else went wrong; failures of handlers are noted on it, and not raised.

        Raises:
            Exception: What a handler raised; an `ExceptionGroup` if there were several.
        """
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        # What was accepted in this very turn of the loop becomes a connection two turns later; asyncio loses
        # it, socket and all, if the listener is closed in between.
        self._door.shut = True
        for _ in range(3):
            await asyncio.sleep(0)
        listener.close()
        while self._tasks:
            running = dict(self._tasks)
            self._tasks.clear()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for wire in running.values():
                # A task cancelled before its first step has closed nothing.
                wire.transport.abort()
                await wire.lost.wait()
        await listener.wait_closed()
        failures = self._service.failures
        if error is not None:
            for failure in failures:
                error.add_note(f"A handler of the test server failed too: {failure!r}")
        elif len(failures) > 1:
            raise ExceptionGroup("handlers of the test server failed", failures)
        elif failures:
            raise failures[0]

    def __enter__(self) -> ThreadedServer:
        """Run in a thread of its own, for tests that are not asynchronous."""
        from ._threaded import ThreadedServer  # noqa: PLC0415  # threads only for those who ask

        self._thread = ThreadedServer(self)
        return self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cast("ThreadedServer", self._thread).stop(error)

    def _opened(self, wire: Wire) -> None:
        self.connections += 1
        connection = Connection(wire, self.connections)
        self._open[wire] = connection
        task = asyncio.get_running_loop().create_task(self._serve(wire, connection))
        self._tasks[task] = wire
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _gone(self, wire: Wire) -> None:
        self._open.pop(wire).mark_gone()
        self._service.changed.set()

    async def _serve(self, wire: Wire, connection: Connection) -> None:
        await self._service.converse(wire, connection)
        wire.close()
        await wire.lost.wait()


def serve(
    *replies: Handler,
    handler: Handler | None = None,
    repeat: bool = False,
    on_accept: OnAccept | None = None,
    models: Sequence[str] = (),
    replay: str | os.PathLike[str] | None = None,
    write_size: int | None = None,
    keys: str | Iterable[str] = (),
    delay: float = 0.0,
    host: str = "127.0.0.1",
    port: int = 0,
    keep_alive: float = 15.0,
) -> Server:
    """Make a server that speaks the API, on loopback.

    Scripted replies are used up in order, one a request. Then, and for a start without any, a simulated
    model answers, or recorded streams are replayed, or a handler of yours serves.

    Args:
        *replies: What `reply_json`, `reply_sse` and their like make, or coroutine functions that take
            ``(request, connection)`` and decide every write themselves.
        handler: Serves whatever is not scripted, in place of the simulated model.
        repeat: Begin the script anew when it is used up.
        on_accept: What to do to a new connection before its first request: `CLOSE`, `RESET`, `HOLD`, or a
            coroutine function that takes the connection.
        models: Names the simulated model goes by; any other is refused with 404. By default every name
            will do.
        replay: A folder of recorded streams, ``*.sse``, to replay byte for byte in place of the simulated
            model; see `Recordings`.
        write_size: Bytes of a recording to write at once; by default the sizes in which it was read when
            recorded, if its manifest tells, else one event.
        keys: Keys to accept as ``Authorization: Bearer KEY``; any other is refused with 401. By default no
            key is asked for. Scripted replies and handlers do not ask either.
        delay: Seconds between two tokens of the simulated model, or between two writes of a recording.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        keep_alive: Seconds after which a connection is closed that idles between two requests.

    Returns:
        A server to be entered by ``async with``, and then running on this event loop; or by ``with``, and
        then running in a thread of its own, for tests that are not asynchronous. Leaving the block closes
        every connection, and raises what a handler raised.

    Raises:
        ValueError: If ``replay`` names no folder with recorded streams.

    Example:
        A reply that breaks off, then one that is whole::

            async with serve(
                reply_writes([reply_sse(chunk("Hel")).data[:-40], RESET]),
                reply_sse(chunk("Hello"), chunk(finish_reason="stop")),
            ) as server:
                client = AsyncGradient(inference_endpoint=server.url, model_access_key="any")
                ...
                assert 2 == len(server.requests)
    """
    if handler is None:
        accepted = frozenset({keys} if isinstance(keys, str) else keys)
        backend = (
            Simulation(models, delay=delay)
            if replay is None
            else Recordings(replay, write_size=write_size, delay=delay)
        )
        handler = Routes(backend, accepted)
    service = Service(replies, fallback=handler, repeat=repeat, on_accept=on_accept, keep_alive=keep_alive)
    return Server(service, host=host, port=port)
