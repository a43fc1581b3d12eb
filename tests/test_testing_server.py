"""The server itself: HTTP, limits, connections, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from test_testing_support import USER, ask, connect, request_bytes

from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Connection,
    Headers,
    Request,
    early,
    head,
    parsing,
    reply_json,
    reply_writes,
    serve,
    service,
    wire,
)

OK = reply_json({"ok": True})


async def hold(request: Request, connection: Connection) -> None:
    await connection.wait_closed()


class TestRequests:
    async def test_recorded(self) -> None:
        """A test finds everything the client sent, keys included."""
        async with serve(OK) as server:
            before = time.monotonic()
            await ask(server, "/v1/chat/completions?a=1&b=", {"x": [1]}, authorization="Bearer k", X_Y="z")
            (request,) = server.requests
            assert ("POST", "/v1/chat/completions", {"a": "1", "b": ""}) == (
                request.method,
                request.path,
                request.query,
            )
            assert "1.1" == request.version
            assert "Bearer k" == request.headers["Authorization"]
            assert "z" == request.headers["x-y"]
            assert {"x": [1]} == request.json
            assert b'{"x": [1]}' == request.body
            assert 1 == request.connection
            assert before <= request.received_at <= time.monotonic()
            assert request.closed_at is None

    async def test_repr_hides_keys(self) -> None:
        """No repr that may end up in a log shows a key."""
        async with serve(OK) as server:
            await ask(server, "/x?token=secret", {"a": "secret"}, authorization="Bearer secret", accept="a/b")
            (request,) = server.requests
            assert "<Request POST /x, 15 bytes, connection 1>" == repr(request)
            assert "secret" not in repr(request.headers)
            assert "'accept': 'a/b'" in repr(request.headers)

    def test_repeated_headers(self) -> None:
        """A field that came several times is joined, and its parts are kept."""
        headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
        assert {"a": "1, 3", "b": "2"} == dict(headers)
        assert (("A", "1"), ("b", "2"), ("a", "3")) == headers.pairs
        assert 2 == len(headers)
        assert "A" in headers
        assert "c" not in headers

    async def test_chunked_body(self) -> None:
        """A chunked request is put together, extensions and trailers dropped."""
        async with serve(OK) as server, connect(server) as peer:
            await peer.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n")
            await peer.send(b"0A \r\n0123456789\r\n0\r\nX: y\r\n\r\n")
            assert {"ok": True} == (await peer.answer()).json
            assert b"abc0123456789" == server.requests[0].body

    async def test_cut_everywhere(self) -> None:
        """Where the network cuts a request does not matter."""
        async with serve(OK) as server, connect(server) as peer:
            for byte in request_bytes("/p", b"body"):
                await peer.send(bytes([byte]))
                await asyncio.sleep(0)
            assert 200 == (await peer.answer()).status
            assert b"body" == server.requests[0].body

    async def test_large_body(self) -> None:
        """A body beyond every buffer arrives whole."""
        async with serve(OK) as server:
            body = bytes(3 * wire._MOST_UNREAD)
            assert 200 == (await ask(server, "/", body)).status
            assert body == server.requests[0].body

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"SSH-2.0-x\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFF\r\n", 413),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000, 431),
            (b"GET / HTTP/1.1\r\n" + b"a" * parsing.MOST_HEAD, 431),
        ],
    )
    async def test_garbage(self, data: bytes, status: int) -> None:
        """What is no clean HTTP is refused, and the connection closed; no handler sees it."""
        async with serve(OK) as server, connect(server) as peer:
            await peer.send(data)
            answer = await peer.answer()
            assert (status, "close") == (answer.status, answer.headers["connection"])
            assert b"" == await peer.rest()
            assert [] == server.requests

    async def test_refusal_reaches_a_busy_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that is still sending can read why it was refused; one that never stops is closed."""
        monkeypatch.setattr(service, "_LINGER", 0.05)
        async with serve() as server, connect(server) as peer:
            await peer.send(b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
            for _ in range(8):
                peer.writer.write(bytes(wire._MOST_UNREAD // 4))
            assert 413 == (await peer.answer()).status
            await server.wait_closed_connections()


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
        """HTTP/1.0, and whoever asks for it, gets the connection closed after the reply."""
        async with serve(OK) as server, connect(server) as peer:
            await peer.send(data)
            assert (await peer.rest()).endswith(b'{"ok":true}')
            assert 1 == server.connections

    async def test_pipelined_beyond_the_bounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Requests sent ahead are served one after the other, though reading pauses."""
        monkeypatch.setattr(wire, "_MOST_UNREAD", 10)
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
        """Half a request is no request."""
        async with serve() as server:
            async with connect(server) as peer:
                await peer.send(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
            await server.wait_closed_connections()
            assert [] == server.requests

    @pytest.mark.parametrize("action", [CLOSE, RESET])
    async def test_fault_at_accept(self, action: Any) -> None:
        """A connection can be ended before it says anything."""
        async with serve(on_accept=action) as server, connect(server) as peer:
            if action is CLOSE:
                assert b"" == await peer.rest()
            else:
                with pytest.raises(ConnectionResetError):
                    await peer.rest()
            assert (1, []) == (server.connections, server.requests)

    async def test_handler_at_accept(self) -> None:
        """What happens at accept may depend on which connection it is."""

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
