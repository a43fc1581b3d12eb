"""Starting and stopping: nothing is left behind, and no failure is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest
import uvloop
from peer import ask, connect, request_bytes

from gradient_async import ChatCompletion
from gradient_async.testing import (
    RESET,
    Connection,
    Request,
    completion,
    early,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)

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
        for port in (-1, 65536):
            with pytest.raises(ValueError, match=f"port={port}: a port is a number from 0 to 65535"):
                serve(port=port)
        wrong: Any = 5
        with pytest.raises(TypeError, match=r"rate_limit: expected a Quota, such as .*, not int"):
            serve(rate_limit=wrong)

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


class TestStrict:
    async def test_what_is_not_scripted(self) -> None:
        """A request beyond the script is refused, whatever its path, and fails the test."""
        with pytest.raises(AssertionError) as caught:
            async with serve(OK, strict=True) as server, connect(server) as peer:
                assert 200 == (await peer.ask(body={})).status
                answer = await peer.ask("/v1/models")
                assert (501, "not_scripted", "false") == (
                    answer.status,
                    answer.json["error"]["code"],
                    answer.headers["x-should-retry"],
                )
                await peer.send(b"HEAD /health HTTP/1.1\r\n\r\n")
                assert 501 == (await peer.head())[0]
        message = "The test server was not used as expected:"
        models, health = (f"{what} is not scripted" for what in ("GET /v1/models", "HEAD /health"))
        assert str(caught.value).startswith(f"{message}\n- {models}")
        assert f"\n- {health}" in str(caught.value)

    async def test_what_is_left_over(self) -> None:
        """A reply that was not asked for fails the test."""
        with pytest.raises(AssertionError, match="2 scripted replies were not asked for"):
            async with serve(OK, OK, strict=True) as server:
                server.push(OK)
                await ask(server)
        async with serve(OK, OK):
            pass  # only if strict

    async def test_repeat(self) -> None:
        """A script that repeats must be played once."""
        async with serve(OK, OK, repeat=True, strict=True) as server:
            for _ in range(3):
                await ask(server)
        with pytest.raises(AssertionError, match="1 scripted reply was not asked for"):
            async with serve(OK, OK, repeat=True, strict=True) as server:
                await ask(server)

    async def test_handler(self) -> None:
        """A handler of your own answers what the script does not."""
        async with serve(OK, handler=reply_json(2), strict=True) as server:
            assert [{"ok": True}, 2, 2] == [(await ask(server)).json for _ in range(3)]

    def test_in_a_thread(self) -> None:
        with pytest.raises(AssertionError, match="1 scripted reply was"), serve(OK, strict=True):
            pass

    async def test_noted_on_other_errors(self) -> None:
        """Where the block fails by itself, what is left over is a note on its error."""
        with pytest.raises(KeyError) as caught:
            async with serve(OK, strict=True):
                raise KeyError
        assert ["The test server was not used as expected:\n- 1 scripted reply was not asked for"] == (
            caught.value.__notes__
        )

    async def test_beside_failures(self) -> None:
        """It is raised together with the exceptions of handlers."""

        async def broken(request: Request, connection: Connection) -> None:
            raise ValueError("no good")

        with pytest.raises(ExceptionGroup) as caught:
            async with serve(broken, OK, strict=True) as server:
                await ask(server)
        assert [ValueError, AssertionError] == [type(error) for error in caught.value.exceptions]

    async def test_stopped_before(self) -> None:
        """A server that does not run has nothing to tell."""
        server = serve(OK, strict=True)
        await server.stop()


async def takes_one(request: Request) -> None: ...


class TestNoReplies:
    """What is no reply is refused at the call, and the error says what to write."""

    CASES: list[tuple[Any, str]] = [
        (completion("Hi"), "write reply_json(completion(...))"),
        ({"object": "chat.completion.chunk"}, "write reply_sse(chunk(...), ...)"),
        ({"object": ["x"]}, "write reply_json({...}, status)"),
        ({}, "a value of type dict is no reply; write reply_json({...}, status)"),
        ("text", "write reply_sse(...) for an event stream, or reply_bytes(...)"),
        (b"bytes", "or reply_bytes(...)"),
        ([OK, OK], "or *replies for several replies"),
        ((OK for _ in "ab"), "or *replies"),
        (RESET, "write reply_writes([...])"),
        (429, "write reply_writes([...])"),
        (0.5, "write reply_writes([...])"),
        (ConnectionError("gone"), "or a reply that breaks off: reply_writes([..., RESET])"),
        (ConnectionError, "ConnectionError is no reply"),
        (
            None,
            "a value of type NoneType is no reply; write reply_json(...), reply_sse(...), or another reply",
        ),
        (ChatCompletion.model_validate(completion()), "write reply_json(reply.to_dict()), or another"),
        (
            completion,
            "completion is no reply; write a coroutine function that takes (request, connection)",
        ),
        (reply_sse, "reply_sse is no reply; write reply_sse(...)"),
        (takes_one, "takes_one is no reply; write a coroutine function"),
    ]

    @pytest.mark.parametrize(("value", "cure"), CASES)
    def test_refused(self, value: Any, cure: str) -> None:
        with pytest.raises(TypeError, match=r"^serve: ") as caught:
            serve(OK, value)
        assert cure in str(caught.value)
        with pytest.raises(TypeError, match=r"^push: "):
            serve().push(value)
        with pytest.raises(TypeError, match=r"^early: "):
            early(value)
        if value is not None:
            with pytest.raises(TypeError, match=r"^serve\(handler=\): "):
                serve(handler=value)

    def test_nothing_was_added(self) -> None:
        """A call that is refused adds none of its replies."""
        server = serve()
        with pytest.raises(TypeError):
            server.push(OK, {})  # type: ignore[arg-type]  # on purpose
        assert 0 == server.pending

    def test_generators_and_coroutines(self) -> None:
        async def yields(request: Request, connection: Connection) -> Any:
            yield b"x"

        async def handler(request: Request, connection: Connection) -> None: ...

        with pytest.raises(TypeError, match="yields is no reply; write a coroutine function"):
            serve(yields)
        with pytest.raises(TypeError, match="write the coroutine function itself, without calling it"):
            serve(handler(Any, Any))  # type: ignore[arg-type]  # on purpose

    def test_replies(self) -> None:
        """Whatever can be called with a request and a connection is a reply."""

        class Handler:
            async def __call__(self, *arguments: object) -> None: ...

        assert 4 == serve(OK, early(OK), Handler(), AsyncMock()).pending
        tells_no_signature: Any = next
        serve(tells_no_signature)

    @pytest.mark.parametrize("step", ["text", None, {}, OK])
    def test_steps(self, step: Any) -> None:
        """What is no step of a reply is refused too."""
        with pytest.raises(TypeError, match=r"reply_writes: step 2 is a \w+; write bytes"):
            reply_writes([b"x", step])
