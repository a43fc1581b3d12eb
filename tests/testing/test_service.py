"""Connections: requests in sequence, early replies, and peers that leave."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from typing import Any

import pytest
from peer import USER, ask, connect, request_bytes

from gradient_async import APIConnectionError, AsyncGradient
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Connection,
    Request,
    connection,
    early,
    head,
    reply_json,
    reply_writes,
    serve,
)

OK = reply_json({"ok": True})


class TestConnections:
    async def test_keep_alive(self) -> None:
        """Requests in sequence, also those sent in one piece, share a connection."""
        async with serve(OK, repeat=True) as server, connect(server) as peer:
            await peer.ask()
            await peer.send(request_bytes("/a") + request_bytes("/b"))
            await peer.answer()
            await peer.answer()
            assert ["/v1/chat/completions", "/a", "/b"] == [request.path for request in server.requests]
            assert {1} == {request.connection for request in server.requests}
            assert 1 == server.connections

    @pytest.mark.parametrize(
        "data",
        [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n"],
    )
    async def test_closed_on_request(self, data: bytes) -> None:
        """HTTP/1.0 and `Connection: close` close the connection after the reply."""
        async with serve(OK) as server, connect(server) as peer:
            await peer.send(data)
            assert (await peer.rest()).endswith(b'{"ok":true}')
            assert 1 == server.connections

    async def test_tls(self) -> None:
        """A client that begins with TLS is refused at once; it would wait for an answer otherwise."""
        async with serve(OK) as server:
            async with connect(server) as peer:
                await peer.send(b"\x16\x03\x01")
                assert b"this server has no TLS" in await peer.rest()
            client = AsyncGradient(base_url=server.url.replace("http://", ""), api_key="k", max_retries=0)
            with pytest.raises(
                APIConnectionError, match=r"if it has no TLS, write http:// before its address$"
            ):
                await client.models.list()
            await client.close()

    async def test_pipelined_beyond_the_bounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pipelined requests are answered in order although reading pauses."""
        monkeypatch.setattr(connection, "MAX_UNREAD", 10)
        async with serve(OK, repeat=True) as server, connect(server) as peer:
            for _ in range(2):
                await peer.send(request_bytes("/") * 3)
                assert [200] * 3 == [(await peer.answer()).status for _ in range(3)]

    async def test_idle_close(self) -> None:
        """An idle connection is closed after keep_alive seconds."""
        async with serve(OK, keep_alive=0.05) as server, connect(server) as peer:
            await peer.ask()
            assert b"" == await peer.rest()
            await server.wait_closed_connections()

    @pytest.mark.usefixtures("virtual_time")
    async def test_counted(self) -> None:
        """Connections are counted while they are open, and can be waited for."""
        async with serve() as server:
            async with connect(server) as peer:
                await peer.ask("/health")
                async with connect(server) as other:
                    await other.ask("/health")
                    assert (2, 2) == (server.connections, server.open_connections)
                    with pytest.raises(TimeoutError, match=r"2 connections are still open after 0.01 s, 0"):
                        await server.wait_closed_connections(timeout=0.01)
                    await server.wait_closed_connections(2)
                await server.wait_closed_connections(1)
                assert 1 == server.open_connections
            await server.wait_closed_connections(timeout=1)
            assert (2, 0) == (server.connections, server.open_connections)

    @pytest.mark.usefixtures("virtual_time")
    async def test_close_seen_while_silent(self) -> None:
        """The server sees within 100 ms that a client has left, though it has nothing to write."""
        async with serve(reply_writes([HOLD])) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes())
                await server.wait_requests()
            left = time.monotonic()
            await server.wait_closed_connections(timeout=0.1)
            closed_at = server.requests[0].closed_at
            assert closed_at is not None
            assert left - 0.1 < closed_at < left + 0.1

    @pytest.mark.usefixtures("virtual_time")
    async def test_close_seen_while_streaming(self) -> None:
        """The server sees within 100 ms that a client has left, though it has much to write."""
        async with serve(delay=0.005) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes(body={"model": "m", "messages": USER, "stream": True}))
                await peer.head()
            await server.wait_closed_connections(timeout=0.1)
            assert server.requests[0].closed_at is not None

    async def test_close_seen_while_peer_does_not_read(self) -> None:
        """A write that waits for a client who does not read ends when the client goes."""
        ended = asyncio.Event()

        async def flood(request: Request, connection: Connection) -> None:
            try:
                while True:
                    await connection.write(bytes(1 << 20))
            finally:
                ended.set()

        async with serve(flood) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes())
                await asyncio.sleep(0.05)
                assert not ended.is_set()
                peer.writer.transport.abort()
            await asyncio.wait_for(ended.wait(), 1)
            assert server.requests[0].closed_at is not None

    async def test_flooded_while_answering(self) -> None:
        """A client that sends without end while it is answered does not fill the memory."""
        async with serve(reply_writes([0.2, CLOSE])) as server, connect(server) as peer:
            await peer.send(request_bytes())
            with pytest.raises(ConnectionError):
                while True:
                    await peer.send(bytes(1 << 20))
            assert 1 == len(server.requests)

    async def test_peer_leaves_in_mid_request(self) -> None:
        """A request that breaks off is not recorded."""
        async with serve() as server:
            async with connect(server) as peer:
                await peer.send(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
            await server.wait_closed_connections()
            assert [] == server.requests

    @pytest.mark.parametrize("action", [CLOSE, RESET])
    async def test_fault_at_accept(self, action: Any) -> None:
        """A command can end a connection before its first request."""
        async with serve(on_accept=action) as server, connect(server) as peer:
            if action is CLOSE:
                assert b"" == await peer.rest()
            else:
                with pytest.raises(ConnectionResetError):
                    await peer.rest()
            assert (1, []) == (server.connections, server.requests)

    async def test_handler_at_accept(self) -> None:
        """An `on_accept` handler can tell connections by their number."""

        async def first_only(connection: Connection) -> None:
            if connection.number == 1:
                await connection.write(b"SSH-2.0-x\r\n")
                connection.close()

        async with serve(on_accept=first_only) as server:
            async with connect(server) as peer:
                assert b"SSH-2.0-x\r\n" == await peer.rest()
            assert 200 == (await ask(server, "/health")).status

    async def test_early(self) -> None:
        """A reply may come before the body of the request, and the connection ends with it."""
        seen: list[Request] = []

        async def refuse(request: Request, connection: Connection) -> None:
            seen.append(request)
            await connection.write(head(413, {"content-length": "0"}))

        async with serve(early(refuse)) as server, connect(server) as peer:
            await peer.send(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
            assert 413 == (await peer.answer()).status
            assert b"" == await peer.rest()
            assert b"" == server.requests[0].body
            assert seen == server.requests

    async def test_refused_after_leaving(self) -> None:
        """A peer that leaves before it is refused leaves neither task nor transport behind."""
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        tasks: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()

        async def note(connection: Connection) -> None:
            tasks.put_nowait(asyncio.current_task())

        async with serve(on_accept=note) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as peer:
                peer.sendall(b"SSH-2.0-x\r\n\r\n")
            serving = await tasks.get()
            assert serving is not None
            await asyncio.wait([serving], timeout=1)
            assert serving.done()
        del serving
        gc.collect()
        assert [] == errors


class TestOnReply:
    """A server can tell of each reply, for example to log it."""

    async def test_each_reply_is_told_when_it_has_ended(self) -> None:
        told: list[Request] = []
        cut = reply_writes([b"HTTP/1.1 2", CLOSE])
        async with (
            serve(reply_json({}, 429), OK, cut, on_reply=told.append) as server,
            connect(server) as peer,
        ):
            await peer.ask("/a")
            await peer.ask("/b")
            await peer.send(request_bytes("/c"))
            await peer.rest()
            assert told == server.requests
        assert [("/a", 429), ("/b", 200), ("/c", None)] == [
            (request.path, request.status) for request in told
        ]
        assert [len(reply_json({}, 429).data), len(OK.data), 10] == [request.reply_size for request in told]
        for request in told:
            assert request.replied_at is not None
            assert request.received_at <= request.replied_at
            assert (None, None) == (request.closed_at, request.failure)

    async def test_the_failure_of_a_handler_is_told(self) -> None:
        """And is then not raised at the end."""
        told: list[Request] = []

        async def fail(request: Request, connection: Connection) -> None:
            raise OSError("no room")

        async with serve(fail, on_reply=told.append) as server:
            assert 500 == (await ask(server)).status
        assert 500 == told[0].status
        assert "no room" == str(told[0].failure)

    async def test_a_client_that_leaves(self) -> None:
        told: list[Request] = []
        async with serve(reply_writes([head(200), HOLD]), on_reply=told.append) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes("/"))
                assert 200 == (await peer.head())[0]
                assert not told
            await server.wait_closed_connections()
            assert [200] == [request.status for request in told]
            assert told[0].closed_at is not None
