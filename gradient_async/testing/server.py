"""The server as tests use it: `Server` on an event loop, `ThreadedServer` in a thread; and `serve`, which makes them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, cast

from .api import Backend, Routes, Unscripted
from .quota import Quota
from .recorder import Recorder
from .replay import Recordings
from .request import Request
from .script import Handler, check_replies
from .service import OnAccept, Service
from .simulation import Simulation

_PORTS = 65536


class ServerBase:
    """The common base of `Server` and `ThreadedServer`."""

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._service = service
        self._host = host
        self._port = port

    def __repr__(self) -> str:
        where = self.url if self._service.port else "not running"
        counts = f"{len(self.requests)} requests, {self.open_connections} open connections"
        return f"<{type(self).__name__} {where}, {counts}>"

    @property
    def port(self) -> int:
        """The port that the server listens on.

        Raises:
            RuntimeError: If the server is not running.
        """
        if self._service.port is None:
            raise RuntimeError("the server is not running: enter it by 'async with' or 'with' first")
        return self._service.port

    @property
    def url(self) -> str:
        """Base URL, to be given as ``inference_endpoint`` or ``agent_endpoint``."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """Every request received, in order; those still being answered included."""
        return self._service.requests

    @property
    def connections(self) -> int:
        """How many connections were ever accepted."""
        return self._service.accepted

    @property
    def open_connections(self) -> int:
        """How many connections are open now; a connection that the peer has closed is not."""
        return len(self._service.open)

    @property
    def pending(self) -> int:
        """How many scripted replies have not been used yet."""
        return len(self._service.script)

    def push(self, *replies: Handler) -> None:
        """Add replies to the script.

        Args:
            *replies: One for each request, in order, after the replies that are still pending.

        Raises:
            TypeError: If a value is not a reply; the message says what to write.
        """
        check_replies("push", *replies)
        self._service.script.extend(replies)


class Server(ServerBase):
    """A server on loopback; made by `serve`, run by ``async with`` or ``with``."""

    async def wait_requests(self, count: int = 1, *, timeout: float = 1.0) -> None:  # noqa: ASYNC109  # see _wait
        """Wait until requests have arrived.

        Args:
            count: How many requests must have arrived since the server started.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: If fewer requests have arrived in time.
        """
        await self._wait(
            lambda: len(self.requests) >= count,
            timeout,
            lambda: f"{len(self.requests)} requests came within {timeout} s, {count} expected",
        )

    async def wait_closed_connections(self, count: int = 0, *, timeout: float = 1.0) -> None:  # noqa: ASYNC109  # see _wait
        """Wait until at most ``count`` connections are open.

        Args:
            count: How many connections may stay open.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: If more connections are still open after that time.
        """
        await self._wait(
            lambda: self.open_connections <= count,
            timeout,
            lambda: (
                f"{self.open_connections} connections are still open after {timeout} s, {count} expected: "
                f"{list(self._service.open)}"
            ),
        )

    async def _wait(self, condition: Callable[[], bool], seconds: float, message: Callable[[], str]) -> None:
        # The timeout is a parameter, and not an `asyncio.timeout` of the caller, so that the error can say what
        # did not happen.
        try:
            async with asyncio.timeout(seconds):
                await self._service.changed.wait_until(condition)
        except TimeoutError:
            raise TimeoutError(message()) from None

    async def start(self) -> None:
        """Begin to listen; ``async with`` calls this method on entering.

        Raises:
            OSError: If the address is taken.
            RuntimeError: If the server runs already.
        """
        if self._service.port is not None:
            raise RuntimeError(f"the server runs already, at {self.url}")
        await self._service.listen(self._host, self._port)

    async def stop(self, error: BaseException | None = None) -> None:
        """Close the listener and every connection; ``async with`` calls this method on leaving.

        Args:
            error: The error that ends the block; failures of handlers are noted on it, and not raised.

        Raises:
            AssertionError: If requests were not recorded, or if the server is strict and requests or replies are left.
            Exception: The exception of a handler; an `ExceptionGroup` if there were several.
        """
        ran = self._service.port is not None
        await self._service.close()
        failures, self._service.failures = self._service.failures, []
        faults = self._service.faults() if ran else []
        unexpected = "\n- ".join(["The test server was not used as expected:", *faults])
        if error is not None:
            for failure in failures:
                error.add_note(f"A handler of the test server failed too: {failure!r}")
            if faults:
                error.add_note(unexpected)
            return
        if faults:
            failures.append(AssertionError(unexpected))
        if len(failures) > 1:
            raise ExceptionGroup("handlers of the test server failed", failures)
        if failures:
            raise failures[0]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(error)

    def __enter__(self) -> ThreadedServer:
        """Run in a thread of its own, for tests that are not asynchronous."""
        self._threaded = ThreadedServer(self._service, self._host, self._port)
        return self._threaded.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threaded.stop(error)


class ThreadedServer(ServerBase):
    """A `Server` that runs in a thread, with an event loop of its own; ``with serve(...)`` gives one.

    Handlers run in that thread.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        super().__init__(service, host, port)
        self._server = Server(service, host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gradient-test-server", daemon=True)

    def wait_requests(self, count: int = 1, *, timeout: float = 1.0) -> None:
        """Block until ``count`` requests have come; see `Server.wait_requests`."""
        self._call(self._server.wait_requests(count, timeout=timeout))

    def wait_closed_connections(self, count: int = 0, *, timeout: float = 1.0) -> None:
        """Block until at most ``count`` connections are open; see `Server.wait_closed_connections`."""
        self._call(self._server.wait_closed_connections(count, timeout=timeout))

    def start(self) -> Self:
        """Start the thread, and wait until the server listens.

        Raises:
            OSError: If the address is taken.
        """
        self._thread.start()
        try:
            self._call(self._server.start())
        except BaseException:
            self._end()
            raise
        return self

    def stop(self, error: BaseException | None = None) -> None:
        """Close every connection, and wait for the thread to end; see `Server.stop`."""
        try:
            self._call(self._server.stop(error))
        finally:
            self._end()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the thread, and wait for its end."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        # The runner cancels tasks that handlers have not ended, and closes the loop.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def serve(
    *replies: Handler,
    handler: Handler | None = None,
    repeat: bool = False,
    on_accept: OnAccept | None = None,
    models: Sequence[str] = (),
    replay: str | os.PathLike[str] | None = None,
    speed: float | None = 1.0,
    upstream: str | None = None,
    record: str | os.PathLike[str] | None = None,
    ignore: Sequence[str] = (),
    strict: bool = False,
    write_size: int | None = None,
    keys: str | Iterable[str] = (),
    delay: float = 0.0,
    latency: float = 0.0,
    rate_limit: Quota | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    keep_alive: float = 15.0,
    on_reply: Callable[[Request], None] | None = None,
) -> Server:
    """Make a server that speaks the API, on loopback.

    Scripted replies are used up in order, one for each request. Further requests are answered by a simulated model,
    by recorded streams, or by your own handler.

    Args:
        *replies: Results of `reply_json`, `reply_sse` and similar functions, or coroutine functions that take
            ``(request, connection)`` and make every write themselves.
        handler: Answers requests that are not scripted, in place of the simulated model.
        repeat: Whether the script starts again when it is used up.
        on_accept: How to treat a new connection before its first request: `CLOSE`, `RESET`, `HOLD`, or a
            coroutine function that takes the connection.
        models: Names of the simulated model; any other name is refused with 404. By default every name is
            accepted.
        replay: A folder of recordings, to replay byte for byte in place of the simulated model. A request gets the
            reply that was recorded for an equal request; if it was asked several times, the replies in the order
            recorded, and then the last again. A request that was not recorded is refused with 501, and leaving the
            block raises an AssertionError. In a folder that has only streams without requests, ``*.sse``, the
            request's ``model`` picks a file by its name; any other model plays the files in turn.
        speed: How many times as fast as recorded to replay; None makes no pauses.
        upstream: URL of a server to pass requests on to. With ``replay``, only those that are not recorded.
        record: A folder to record the replies of ``upstream`` in, without keys; it is made if there is none.
        ignore: Fields of the body that do not tell requests apart, such as ``user`` or ``metadata.run``.
        strict: Whether a request that no reply is scripted for fails, in place of being answered by the simulated
            model, and whether scripted replies and recordings that are left at the end do; each recording is then
            played only once. Leaving the block raises an AssertionError that lists them.
        write_size: Bytes of a recording to write at once; by default the sizes in which it was read when
            recorded, if its manifest has them, else one event.
        keys: Keys to accept as ``Authorization: Bearer KEY``; any other key is refused with 401. By default
            requests need no key. Scripted replies and handlers never require a key.
        delay: Seconds between two tokens of the simulated model, or between two writes of a recording.
        latency: Seconds before the first byte of each reply of the simulated model, or of each recording. A refusal
            comes at once.
        rate_limit: The `Quota` to hold for each key. The replies of the simulated model and recordings then have rate
            limit headers, and a request beyond the quota is refused. By default nothing is limited, and no reply
            has such headers. Scripted replies, handlers and the list of models take nothing from a quota.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        keep_alive: Seconds after which a connection that is idle between two requests is closed.
        on_reply: Called with each request when its reply has ended, for example to log it. The exception of a handler is
            then the request's ``failure``, and is not raised at the end.

    Returns:
        A server to be entered by ``async with``, and then running on this event loop; or by ``with``, and
        then running in a thread of its own, for tests that are not asynchronous. Leaving the block closes
        every connection, and raises the exceptions of handlers.

    Raises:
        TypeError: If a value in ``replies`` is not a reply, or ``rate_limit`` is not a quota; the message says what to write.
        ValueError: If ``replay`` is not a folder with recordings, the port is none, or options do not go together.
        OSError: If the folder for recordings cannot be made.

    Example:
        A reply that breaks off, then a whole one::

            async with serve(
                reply_writes([reply_sse(chunk("Hel")).data[:-40], RESET]),
                reply_sse(chunk("Hello"), chunk(finish_reason="stop")),
            ) as server:
                client = AsyncGradient(inference_endpoint=server.url, model_access_key="any")
                ...
                assert 2 == len(server.requests)
    """
    check_replies("serve", *replies)
    if not 0 <= port < _PORTS:
        raise ValueError(f"port={port}: a port is a number from 0 to {_PORTS - 1}")
    if not isinstance(cast("object", rate_limit), Quota | None):
        kind = type(rate_limit).__name__
        raise TypeError(f"rate_limit: expected a Quota, such as Quota(requests=30, per_second=8), not {kind}")
    if record is not None and upstream is None:
        raise ValueError("record: the replies of which server? give its URL as upstream=")
    recorded = replay is not None or upstream is not None
    faults: Callable[[], Sequence[str]] = tuple
    if handler is not None:
        check_replies("serve(handler=)", handler)
        if recorded:
            raise ValueError("handler= answers every request; leave it out to replay or to record")
    elif strict and not recorded:
        handler = Unscripted()
        faults = handler.faults
    else:
        backend: Backend = Simulation(models, delay=delay)
        if recorded:
            backend = recordings = Recordings(
                replay,
                write_size=write_size,
                delay=delay,
                speed=speed,
                strict=strict,
                ignore=ignore,
                recorder=None if upstream is None else Recorder(upstream, record),
            )
            faults = recordings.faults
        accepted = frozenset({keys} if isinstance(keys, str) else keys)
        handler = Routes(backend, accepted, quota=rate_limit, latency=latency)
    service = Service(
        replies,
        fallback=handler,
        repeat=repeat,
        on_accept=on_accept,
        keep_alive=keep_alive,
        strict=strict,
        faults=faults,
        on_reply=on_reply,
    )
    return Server(service, host=host, port=port)
