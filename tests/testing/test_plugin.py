"""The server in a thread, the pytest fixture, and what an import loads."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from peer import ask

import gradient_async.testing
from gradient_async.testing import (
    HOLD,
    Connection,
    Request,
    ThreadedServer,
    plugin,
    reply_json,
    reply_writes,
    serve,
)

gradient_server = plugin.gradient_server
gradient_server_options = plugin.gradient_server_options


@pytest.fixture
def leftovers() -> Iterator[list[socket.socket]]:
    """Sockets that are closed after the server has stopped."""
    sockets: list[socket.socket] = []
    yield sockets
    for left in sockets:
        left.close()


class RefusedError(Exception):
    pass


def modules(code: str) -> set[str]:
    """Run code that prints names of modules."""
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )  # our own interpreter
    return set(run.stdout.split())


def get(server: ThreadedServer, path: str = "/health") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise RefusedError(reply.status)
        return body


class TestFixture:
    def test_blocking(self, gradient_server: ThreadedServer) -> None:
        """A test without asyncio can use the server."""
        gradient_server.push(reply_json({"a": 1}))
        assert 1 == gradient_server.pending
        assert b'{"a":1}' == get(gradient_server)
        assert b'{"status":"ok"}' == get(gradient_server)
        assert ["/health", "/health"] == [request.path for request in gradient_server.requests]
        assert 2 == gradient_server.connections
        gradient_server.wait_requests(2)
        with pytest.raises(TimeoutError, match=r"2 requests came within 0.01 s, 3 expected"):
            gradient_server.wait_requests(3, timeout=0.01)
        gradient_server.wait_closed_connections()
        assert f"http://127.0.0.1:{gradient_server.port}" == gradient_server.url
        assert (0, 0) == (gradient_server.open_connections, gradient_server.pending)
        assert repr(gradient_server).startswith(f"<ThreadedServer http://127.0.0.1:{gradient_server.port}, 2")

    async def test_asynchronous(self, gradient_server: ThreadedServer) -> None:
        """An asynchronous test can use the same fixture, on its own event loop."""
        assert 200 == (await ask(gradient_server, "/health")).status

    def test_left_open(self, leftovers: list[socket.socket], gradient_server: ThreadedServer) -> None:
        """The server stops although a test leaves a connection open."""
        gradient_server.push(reply_writes([HOLD]))
        with socket.create_connection(("127.0.0.1", gradient_server.port)) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            gradient_server.wait_requests()
            left_open = peer.dup()
        leftovers.append(left_open)


class TestOptions:
    @pytest.fixture
    def gradient_server_options(self) -> dict[str, Any]:
        return {"models": ["mine"]}

    def test_overridden(self, gradient_server: ThreadedServer) -> None:
        """`gradient_server_options` changes the server of the fixture."""
        assert b'"id":"mine"' in get(gradient_server, "/v1/models")


class TestThread:
    def test_failure(self) -> None:
        """The exception of a handler is raised in the thread of the test."""

        async def broken(request: Request, connection: Connection) -> None:
            raise ValueError("no good")

        with (
            pytest.raises(ValueError, match="no good"),
            serve(broken) as server,
            pytest.raises(RefusedError, match="500"),
        ):
            get(server)

    def test_failure_noted(self) -> None:
        """The exception of a handler does not hide the failure of the test."""

        async def broken(request: Request, connection: Connection) -> None:
            raise ValueError("no good")

        with pytest.raises(RefusedError) as caught, serve(broken) as server:
            get(server)
        assert "no good" in caught.value.__notes__[0]

    def test_tasks_of_handlers_end(self) -> None:
        """A task that a handler leaves behind is cancelled when the thread ends."""
        ended: list[str] = []

        async def linger() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("cancelled")

        async def handler(request: Request, connection: Connection) -> None:
            tasks.append(asyncio.get_running_loop().create_task(linger()))
            await reply_json({})(request, connection)

        tasks: list[asyncio.Task[None]] = []
        with serve(handler) as server:
            assert b"{}" == get(server)
        assert ["cancelled"] == ended

    def test_address_taken(self) -> None:
        """The error of a server that cannot start is raised in the thread of the test."""
        with serve() as server, pytest.raises(OSError, match="in use"):
            serve(port=server.port).__enter__()


class TestImport:
    def test_names(self) -> None:
        """Every public name exists; an unknown name raises AttributeError."""
        for name in gradient_async.testing.__all__:
            assert getattr(gradient_async.testing, name) is not None
            assert name in dir(gradient_async.testing)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = getattr(gradient_async.testing, "nothing")  # noqa: B009  # the checkers know that it is not there

    @pytest.mark.parametrize(
        ("code", "unwanted"),
        [
            ("import gradient_async.testing", "aiohttp pytest"),
            ("import gradient_async.testing.plugin", "aiohttp"),
        ],
    )
    def test_light(self, code: str, unwanted: str) -> None:
        """The server needs no HTTP client, and only the plugin needs pytest."""
        loaded = "; print(*sys.modules)"
        before = modules(f"import sys{', pytest' * ('plugin' in code)}{loaded}")
        assert not (modules(f"import sys; {code}{loaded}") - before) & set(unwanted.split())
