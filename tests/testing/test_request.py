"""Requests as a test sees them, and the refusal of malformed HTTP."""

from __future__ import annotations

import asyncio
import time

import pytest
from peer import ask, connect, request_bytes

from gradient_async.testing import Headers, connection, reply_json, serve, service
from gradient_async.testing import request as requests

OK = reply_json({"ok": True})


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
        """No repr shows a key: a repr may end up in a log."""
        async with serve(OK) as server:
            await ask(server, "/x?token=secret", {"a": "secret"}, authorization="Bearer secret", accept="a/b")
            (request,) = server.requests
            assert "<Request POST /x, 15 bytes, connection 1>" == repr(request)
            assert "secret" not in repr(request.headers)
            assert "'accept': 'a/b'" in repr(request.headers)

    def test_repeated_headers(self) -> None:
        """Values of a repeated field are joined, and `pairs` keeps each of them."""
        headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
        assert {"a": "1, 3", "b": "2"} == dict(headers)
        assert (("A", "1"), ("b", "2"), ("a", "3")) == headers.pairs
        assert 2 == len(headers)
        assert "A" in headers
        assert "c" not in headers

    async def test_chunked_body(self) -> None:
        """A chunked body is joined; extensions and trailers are dropped."""
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
            body = bytes(3 * connection.MAX_UNREAD)
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
            (b"GET / HTTP/1.1\r\n" + b"a" * requests.MAX_HEAD, 431),
        ],
    )
    async def test_garbage(self, data: bytes, status: int) -> None:
        """Malformed HTTP is refused and the connection closed; no handler sees the request."""
        async with serve(OK) as server, connect(server) as peer:
            await peer.send(data)
            answer = await peer.answer()
            assert (status, "close") == (answer.status, answer.headers["connection"])
            assert b"" == await peer.rest()
            assert [] == server.requests

    async def test_refusal_reaches_a_busy_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that is still sending can read the refusal; its connection is closed in the end."""
        monkeypatch.setattr(service, "_LINGER", 0.05)
        async with serve() as server, connect(server) as peer:
            await peer.send(b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
            for _ in range(8):
                peer.writer.write(bytes(connection.MAX_UNREAD // 4))
            assert 413 == (await peer.answer()).status
            await server.wait_closed_connections()
