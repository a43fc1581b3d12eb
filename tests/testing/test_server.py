"""Starting and stopping: nothing is left behind, and no failure is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from peer import ask, connect, request_bytes

from gradient_async.testing import RESET, Connection, Request, reply_json, reply_sse, reply_writes, serve

OK = reply_json({"ok": True})


async def hold(request: Request, connection: Connection) -> None:
    await connection.wait_closed()


class TestLife:
    async def test_leaving_closes_everything(self) -> None:
        """Leaving the block ends every connection, busy or idle, and every task."""
        before = asyncio.all_tasks()
        async with serve(hold, OK) as server, connect(server) as busy, connect(server) as idle:
            await busy.send(request_bytes())
            await server.wait_requests()
            await idle.ask()
            async with serve() as other:
                assert other.port != server.port
            await server.stop()
            assert before == asyncio.all_tasks()
            assert 0 == server.open_connections
            await busy.rest()
            await idle.rest()

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
    @pytest.mark.parametrize("turns", range(6))
    def test_leaving_while_connections_arrive(self, turns: int, run: Callable[[Any], Any]) -> None:
        """Connections that arrive while the server stops are closed too."""
        peers: list[socket.socket] = []

        async def main() -> None:
            before = asyncio.all_tasks()
            async with serve() as server:
                peers.extend(socket.create_connection(("127.0.0.1", server.port)) for _ in range(20))
                for _ in range(turns):
                    await asyncio.sleep(0)
            assert before == asyncio.all_tasks()

        run(asyncio.wait_for(main(), 5))
        for peer in peers:
            with peer:
                peer.settimeout(1)
                with contextlib.suppress(ConnectionResetError):
                    assert b"" == peer.recv(1)

    async def test_not_running(self) -> None:
        """Outside its block a server has no address, and the error says so."""
        server = serve()
        assert "<Server not running, 0 requests, 0 open connections>" == repr(server)
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.url
        async with server:
            assert f"http://127.0.0.1:{server.port}" == server.url
            assert f"<Server {server.url}, 0 requests, 0 open connections>" == repr(server)
            with pytest.raises(RuntimeError, match="runs already"):
                await server.start()
        await server.stop()

    async def test_ipv6(self) -> None:
        """The URL of an IPv6 address has brackets."""
        async with serve(host="::1") as server:
            assert f"http://[::1]:{server.port}" == server.url

    async def test_given_port(self) -> None:
        """A port can be chosen; a taken port raises an error."""
        async with serve() as server:
            with pytest.raises(OSError, match="in use"):
                await serve(port=server.port).start()

    def test_uvloop(self) -> None:
        """The server keeps writes apart, resets and closes under uvloop too."""

        async def main() -> None:
            async with serve(reply_sse("a", "b"), reply_writes([b"x", RESET])) as server:
                async with connect(server) as peer:
                    await peer.send(request_bytes())
                    await peer.head()
                    assert b"data: a\n\n" == await peer.chunk()
                    assert b"data: b\n\n" == await peer.chunk()
                    assert b"data: [DONE]\n\n" == await peer.chunk()
                    assert b"" == await peer.chunk()
                    await peer.send(request_bytes())
                    assert b"x" == await peer.reader.readexactly(1)
                    with pytest.raises(ConnectionResetError):
                        await peer.rest()
                await server.wait_closed_connections()

        uvloop.run(main())


class TestFailures:
    async def test_handler_raises(self) -> None:
        """The client gets the exception of a handler as a 500; leaving the block raises it."""

        async def broken(request: Request, connection: Connection) -> None:
            raise ValueError("no good")

        with pytest.raises(ValueError, match="no good"):
            async with serve(broken) as server:
                answer = await ask(server)
                assert 500 == answer.status
                assert "false" == answer.headers["x-should-retry"]
                assert "ValueError('no good')" in answer.json["message"]

    async def test_no_coroutine_function(self) -> None:
        """A handler that is not a coroutine function, and raises, fails like any other."""

        def broken(request: Request, connection: Connection) -> Any:
            raise ValueError("no good")

        with pytest.raises(ValueError, match="no good"):
            async with serve(broken) as server:
                assert 500 == (await ask(server)).status

    async def test_several_raise(self) -> None:
        """Several failures are raised as a group; an unfinished reply ends with a reset."""

        async def broken(request: Request, connection: Connection) -> None:
            await connection.write(b"HTTP/1.1 200 OK\r\n")
            raise ConnectionRefusedError

        async def late(request: Request, connection: Connection) -> None:
            connection.close()
            await connection.write(b"x")

        with pytest.raises(ExceptionGroup) as caught:
            async with serve(broken, late) as server:
                async with connect(server) as peer:
                    await peer.send(request_bytes())
                    assert b"HTTP/1.1 200 OK\r\n" == await peer.reader.readline()
                    with pytest.raises(ConnectionResetError):
                        await peer.rest()
                async with connect(server) as peer:
                    await peer.send(request_bytes())
                    await peer.rest()
        first, second = caught.value.exceptions
        assert isinstance(first, ConnectionRefusedError)
        assert "write after close" in str(second)

    async def test_noted_on_other_errors(self) -> None:
        """The exception of a handler becomes a note on the failure of the test."""

        async def broken(request: Request, connection: Connection) -> None:
            raise ValueError("no good")

        with pytest.raises(KeyError) as caught:
            async with serve(broken) as server:
                await ask(server)
                raise KeyError("test")
        assert ["A handler of the test server failed too: ValueError('no good')"] == caught.value.__notes__

    async def test_broken_handler_at_accept(self) -> None:
        """The exception of an `on_accept` handler is raised too."""

        async def broken(connection: Connection) -> None:
            raise ValueError("no good")

        with pytest.raises(ValueError, match="no good"):
            async with serve(on_accept=broken) as server, connect(server) as peer:
                assert b" 500 " in await peer.rest()
