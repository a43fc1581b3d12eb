"""The server in a thread, for tests that are not asynchronous, or whose event loop is of another kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .request import Request
    from .script import Handler
    from .server import Server

__all__ = ["ThreadedServer"]


class ThreadedServer:
    """A `Server` that runs in a thread, with an event loop of its own; ``with serve(...)`` gives one.

    Handlers run in that thread.

    Args:
        server: The server to run, not running yet.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._started: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="gradient-test-server", daemon=True)

    def __repr__(self) -> str:
        return repr(self._server).replace("<Server", "<ThreadedServer")

    @property
    def url(self) -> str:
        """Base URL; see `Server.url`."""
        return self._server.url

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._server.port

    @property
    def requests(self) -> Sequence[Request]:
        """Every request received, in order."""
        return self._server.requests

    @property
    def connections(self) -> int:
        """How many connections were ever accepted."""
        return self._server.connections

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._server.open_connections

    @property
    def pending(self) -> int:
        """How many scripted replies have not been used yet."""
        return self._server.pending

    def push(self, *replies: Handler) -> None:
        """Add replies to the script; see `Server.push`."""
        self._server.push(*replies)

    def wait_requests(self, count: int = 1, *, timeout: float = 1.0) -> None:
        """Block until ``count`` requests have come; see `Server.wait_requests`.

        Args:
            count: How many, from the start of the server.
            timeout: Seconds to wait for that.

        Raises:
            TimeoutError: If there are fewer even then.
        """
        waiting = self._server.wait_requests(count, timeout=timeout)
        asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def wait_closed_connections(self, count: int = 0, *, timeout: float = 1.0) -> None:
        """Block until at most ``count`` connections are open; see `Server.wait_closed_connections`.

        Args:
            count: How many may stay open.
            timeout: Seconds to wait for that.

        Raises:
            TimeoutError: If more are open even then.
        """
        waiting = self._server.wait_closed_connections(count, timeout=timeout)
        asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def start(self) -> ThreadedServer:
        """Start the thread, and wait until the server listens.

        Raises:
            OSError: If the address is taken.
        """
        self._thread.start()
        self._started.result()
        return self

    def stop(self, error: BaseException | None = None) -> None:
        """Close every connection, and wait for the thread to end.

        Args:
            error: What else went wrong; failures of handlers are noted on it, and not raised.

        Raises:
            Exception: What a handler raised.
        """
        self._error = error
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()
        self._ended.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            (self._ended if self._started.done() else self._started).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._leave = asyncio.Event()
        await self._server.start()
        self._started.set_result(None)
        await self._leave.wait()
        await self._server.stop(self._error)
