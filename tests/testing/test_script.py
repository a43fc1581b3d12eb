"""Scripted replies: a test controls every write."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from peer import USER, ask, connect, request_bytes

from gradient_async.testing import (
    CLOSE,
    HALF_CLOSE,
    HOLD,
    RESET,
    Connection,
    Request,
    chunk,
    early,
    forever,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)


class TestOrder:
    async def test_in_order_then_the_model(self) -> None:
        """Replies are used up in order, then the simulated model answers."""
        async with serve(reply_json(1), reply_json(2)) as server:
            server.push(reply_json(3))
            assert 3 == server.pending
            assert [1, 2, 3] == [(await ask(server)).json for _ in range(3)]
            assert 0 == server.pending
            answer = await ask(server, body={"model": "m", "messages": USER})
            assert "chat.completion" == answer.json["object"]

    async def test_repeat(self) -> None:
        """With `repeat`, the script starts again when it is used up."""
        async with serve(reply_json(1), reply_json(2), repeat=True) as server:
            assert [1, 2, 1, 2, 1] == [(await ask(server)).json for _ in range(5)]

    async def test_handler(self) -> None:
        """A handler answers requests that are not scripted; its connection knows the request."""

        async def handler(request: Request, connection: Connection) -> None:
            assert request is connection.request
            assert "<Connection 1>" == repr(connection)
            await reply_json(request.path)(request, connection)
            assert connection.sent

        async with serve(reply_json(1), handler=handler) as server, connect(server) as peer:
            assert 1 == (await peer.ask("/a")).json
            assert "/b" == (await peer.ask("/b")).json


class TestWrites:
    async def test_as_they_stand(self) -> None:
        """Bytes are sent as they stand, and the connection stays open."""
        async with serve(reply_writes([b"any", b"thing"]), reply_json(1)) as server, connect(server) as peer:
            await peer.send(request_bytes())
            assert b"anything" == await peer.reader.readexactly(8)
            assert 1 == (await peer.ask()).json

    async def test_apart(self) -> None:
        """Writes with a pause between them arrive apart."""
        async with serve(reply_writes([b"a", 0.05, b"b", 0, CLOSE])) as server, connect(server) as peer:
            await peer.send(request_bytes())
            assert b"a" == await peer.reader.read(100)
            began = time.monotonic()
            assert b"b" == await peer.reader.read(100)
            assert 0.02 < time.monotonic() - began
            assert b"" == await peer.rest()

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
    def test_at_once(self, run: Callable[[Any], Any]) -> None:
        """No small write waits for another one, on any event loop."""
        seen: list[int] = []

        async def handler(request: Request, connection: Connection) -> None:
            sock = connection.transport.get_extra_info("socket")
            seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            await reply_json(1)(request, connection)

        async def main() -> None:
            async with serve(handler) as server:
                await ask(server)

        run(main())
        assert [True] == [bool(value) for value in seen]

    async def test_reset_after_many_writes(self) -> None:
        """Small writes in a row all arrive before the reset that follows them."""
        async with serve(reply_writes([*[b"ab"] * 50, RESET]), repeat=True) as server:
            for _ in range(20):
                async with connect(server) as peer:
                    await peer.send(request_bytes())
                    assert b"ab" * 50 == await peer.reader.readexactly(100)

    async def test_close(self) -> None:
        """CLOSE ends the connection by FIN, after everything written."""
        async with serve(reply_writes([b"x" * 20_000_000, b"y", CLOSE])) as server, connect(server) as peer:
            await peer.send(request_bytes())
            assert 20_000_001 == len(await peer.rest())
            assert server.requests[0].closed_at is None

    async def test_reset(self) -> None:
        """RESET breaks the connection; bytes written before still arrive."""
        async with serve(reply_writes([b"abc", RESET])) as server, connect(server) as peer:
            await peer.send(request_bytes())
            assert b"abc" == await peer.reader.readexactly(3)
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            assert server.requests[0].closed_at is None

    async def test_half_close(self) -> None:
        """HALF_CLOSE sends FIN, while the peer may go on sending."""
        async with serve(reply_writes([b"abc", HALF_CLOSE, HOLD])) as server, connect(server) as peer:
            await peer.send(request_bytes())
            assert b"abc" == await peer.rest()
            await peer.send(b"more")
            await asyncio.sleep(0.01)
            assert 1 == server.open_connections

    async def test_reset_after_close(self) -> None:
        """A connection that is closed already may be reset once more."""
        async with serve(reply_writes([CLOSE, RESET])) as server, connect(server) as peer:
            await peer.send(request_bytes())
            await peer.rest()

    async def test_hold(self) -> None:
        """HOLD writes nothing until the peer closes; later steps are dropped silently."""
        async with serve(reply_writes([b"a", HOLD, b"b"])) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes())
                assert b"a" == await peer.reader.read(9)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(peer.reader.read(9), 0.02)
            await server.wait_closed_connections()

    async def test_forever(self) -> None:
        """Steps are repeated until the peer closes, also without a pause between them."""
        script = reply_writes([b"a", forever(b"b", 0.001)])
        async with serve(script, reply_writes([forever(b"c")])) as server:
            for byte in (b"b", b"c"):
                async with connect(server) as peer:
                    await peer.send(request_bytes())
                    assert (await peer.reader.readexactly(5)).endswith(byte * 4)
                await server.wait_closed_connections()

    def test_forever_needs_steps(self) -> None:
        """`forever()` without steps is refused: it would block the event loop."""
        with pytest.raises(ValueError, match="at least one step"):
            forever()

    async def test_sleep_ends_with_the_peer(self) -> None:
        """A pause ends when the peer closes."""
        async with serve(reply_writes([b"a", 60])) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes())
                await peer.reader.readexactly(1)
            await server.wait_closed_connections(timeout=0.2)

    async def test_closed(self) -> None:
        """A handler can ask whether the peer has closed."""
        seen: list[object] = []

        async def handler(request: Request, connection: Connection) -> None:
            seen.append(connection.closed)
            await connection.wait_closed()
            seen.extend([connection.closed, connection.abandoned, repr(connection)])

        async with serve(handler) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes())
                await server.wait_requests()
            await server.wait_closed_connections()
            await asyncio.sleep(0.01)
            assert [False, True, True, "<Connection 1, closed>"] == seen


class TestReplies:
    async def test_json(self) -> None:
        """JSON comes with its length and type, status and headers as asked for."""
        async with serve(reply_json({"é": 1}, 429, {"retry-after": "1"})) as server:
            answer = await ask(server)
            assert (429, {"é": 1}) == (answer.status, answer.json)
            assert {"content-type": "application/json", "content-length": "8", "retry-after": "1"} == (
                answer.headers
            )

    async def test_bytes(self) -> None:
        """Bytes come as they are; a header can be replaced, whatever its case, or left out."""
        headers = {"Content-Type": None, "CONTENT-LENGTH": "2"}
        async with serve(reply_bytes(b"abc", headers=headers)) as server, connect(server) as peer:
            answer = await peer.ask()
            assert (b"ab", {"content-length": "2"}) == (answer.body, answer.headers)
            assert b"c" == await peer.reader.read(1)

    @pytest.mark.parametrize("make", [reply_bytes, reply_sse])
    async def test_announced_close(self, make: Any) -> None:
        """A reply with `Connection: close` closes the connection."""
        async with serve(make(b"x", headers={"Connection": "Close"})) as server, connect(server) as peer:
            await peer.ask()
            assert b"" == await peer.rest()

    async def test_sse_chunked(self) -> None:
        """Each event is an HTTP chunk of its own; [DONE] is the last event."""
        async with serve(reply_sse(chunk("a"), "b\nc", b": d\n\n")) as server, connect(server) as peer:
            await peer.send(request_bytes())
            status, headers = await peer.head()
            assert (200, "text/event-stream") == (status, headers["content-type"])
            assert chunk("a") == json.loads((await peer.chunk()).removeprefix(b"data: "))
            assert [b"data: b\ndata: c\n\n", b": d\n\n", b"data: [DONE]\n\n", b""] == [
                await peer.chunk() for _ in range(4)
            ]

    async def test_sse_grouped(self) -> None:
        """Several events may share a write."""
        reply = reply_sse("a", "b", "c", per_write=2, done=False)
        assert [http_chunk(b"data: a\n\ndata: b\n\n"), http_chunk(b"data: c\n\n"), b"0\r\n\r\n"] == list(
            reply.steps[1:]
        )

    def test_sse_empty_write(self) -> None:
        """A write without events is refused."""
        with pytest.raises(ValueError, match="per_write=0"):
            reply_sse("a", per_write=0)

    def test_sse_timing(self) -> None:
        """Gaps stand between events, the end delay before the end of the body."""
        steps = reply_sse("a", "b", done=False, gap=0.1, end_delay=0.2).steps
        assert [0.1, 0.2] == [step for step in steps if isinstance(step, float)]
        assert (0.1, 0.2) == (steps[2], steps[4])

    @pytest.mark.parametrize("framing", ["length", "eof"])
    async def test_sse_framing(self, framing: Any) -> None:
        """A stream can be framed by its length, or by the end of the connection."""
        async with serve(reply_sse("a", framing=framing)) as server, connect(server) as peer:
            answer = await peer.ask()
            assert b"data: a\n\ndata: [DONE]\n\n" == answer.body
            assert (framing == "eof") == (answer.headers.get("connection") == "close")
            assert (framing == "length") == ("content-length" in answer.headers)

    async def test_data(self) -> None:
        """`Reply.data` has all bytes of a reply, to be cut."""
        whole = reply_sse("a", gap=0.1).data
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert whole.endswith(b"0\r\n\r\n")
        async with serve(reply_writes([whole[:-7], CLOSE])) as server, connect(server) as peer:
            await peer.send(request_bytes())
            assert whole[:-7] == await peer.rest()

    async def test_early_reply(self) -> None:
        """Replies of any kind may come early."""
        async with serve(early(reply_json({}, 413))) as server, connect(server) as peer:
            await peer.send(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
            assert 413 == (await peer.answer()).status
