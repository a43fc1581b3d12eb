"""Connections: reused, given up, shared, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import uvloop
from aioresponses import aioresponses
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import (
    APIConnectionError,
    APITimeoutError,
    AsyncGradient,
    BadRequestError,
    ConfigurationError,
    Timeout,
)
from gradient_async.config import Limits, Retry
from gradient_async.secrets import Secret
from gradient_async.session.call import Call
from gradient_async.session.connector import _refuse_closed
from gradient_async.session.exceptions import UnsentError
from gradient_async.session.manager import SessionManager
from gradient_async.session.pool import _close_now, _keep
from gradient_async.testing import CLOSE, HOLD, RESET, chunk, head, reply_sse, reply_writes, serve

WIRE = [chunk(f"t{turn}") for turn in range(5)]
WIRE.append(chunk(finish_reason="stop"))


@pytest.mark.parametrize("end_delay", [0.0, 0.02])
async def test_streams_in_sequence_use_one_connection(start: Start, end_delay: float) -> None:
    """Also when the body's end comes 20 ms after ``[DONE]``."""
    server, client = await start(*[reply_sse(*WIRE, end_delay=end_delay) for _ in range(20)])
    for _ in range(20):
        stream = await open_stream(client)
        assert len(WIRE) == len([piece async for piece in stream])
    assert (len(server.requests), server.connections) == (20, 1)


@pytest.mark.parametrize("step", [CLOSE, RESET])
async def test_a_connection_that_died_idle_is_replaced_without_counting(start: Start, step: Any) -> None:
    """Once: lost without an answer right after the request, it had been closed before."""
    server, client = await start()
    await create_completion(client)
    server.push(reply_writes([step]))
    assert (await create_completion(client)).attempts == 1
    assert server.connections == 2
    server.push(reply_writes([step]), reply_writes([step]))
    with pytest.raises(APIConnectionError) as caught:
        await create_completion(client)
    assert (caught.value.ambiguous, caught.value.attempts) == (True, 1)


@pytest.mark.parametrize("first", [b"\r\n", b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_a_connection_that_brought_a_byte_did_not_die_idle(start: Start, first: bytes) -> None:
    """The server may have begun to work, so the request is not sent again."""
    server, client = await start()
    await create_completion(client)
    server.push(reply_writes([first, 0.02, CLOSE]))
    with pytest.raises(APIConnectionError) as caught:
        await create_completion(client)
    assert (caught.value.phase, caught.value.ambiguous, len(server.requests)) == ("response", True, 2)


async def test_a_connection_lost_later_is_not_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradient_async.session.deadlines._DEAD_WITHIN", 0.05)
    server, client = await start()
    await create_completion(client)
    server.push(reply_writes([0.1, CLOSE]))
    with pytest.raises(APIConnectionError):
        await create_completion(client)
    assert len(server.requests) == 2


async def test_calls_errors_and_streams_share_a_connection(start: Start) -> None:
    server, client = await start()
    for model in ("m", "error-400", "m"):
        params: dict[str, Any] = {**CALL, "model": model}
        with contextlib.suppress(BadRequestError):
            await create_completion(client, **params)
        async with client.chat.completions.stream(**CALL) as stream:
            await stream.completion()
    await client.models.list()
    assert server.connections == 1


@pytest.mark.usefixtures("virtual_time")
async def test_a_server_that_does_not_end_its_body_costs_a_moment_and_the_connection(start: Start) -> None:
    server, client = await start(reply_writes([*reply_sse(*WIRE).steps[:-1], HOLD]))
    began = time.monotonic()
    async with client.chat.completions.stream(**CALL) as stream:
        assert (await stream.completion()).choices
    assert time.monotonic() - began < 0.15
    await server.wait_closed_connections()


async def test_five_hundred_streams_at_once(start: Start) -> None:
    server, client = await start()

    async def one() -> bool:
        stream = await open_stream(client)
        await stream.completion()
        return stream.completed

    assert all(await asyncio.gather(*(one() for _ in range(500))))
    assert server.connections <= 500


async def test_more_calls_than_connections_wait_for_one(start: Start) -> None:
    server, client = await start(max_connections=2)
    await asyncio.gather(*(create_completion(client, timeout=Timeout(connect=1)) for _ in range(10)))
    assert server.connections <= 2


async def test_waiting_for_a_connection_is_limited_by_total_alone(start: Start) -> None:
    _, client = await start(reply_writes([HOLD]), max_connections=1)
    first = asyncio.create_task(create_completion(client))
    await asyncio.sleep(0.05)
    with pytest.raises(APITimeoutError) as caught:
        await create_completion(client, timeout=Timeout(total=0.1, connect=0.05))
    assert (caught.value.phase, caught.value.ambiguous) == ("total", False)  # nothing was sent
    first.cancel()


def test_everything_works_under_uvloop() -> None:
    async def main() -> None:
        async with (
            serve() as server,
            AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
        ):
            assert (await create_completion(client)).choices
            async with client.chat.completions.stream(**CALL, n=2) as stream:

                async def count(index: int) -> int:
                    choice = stream.choice(index)  # noqa: F821  # deleted only after its last use
                    return len([piece async for piece in choice])

                assert min(await asyncio.gather(count(0), count(1))) > 5
            async with client.chat.completions.stream(**CALL) as stream:
                await anext(stream)
            stream = await open_stream(client)
            with pytest.warns(ResourceWarning, match="dropped"):
                del stream
            await server.wait_closed_connections(1)

    uvloop.run(main())


async def test_a_connect_that_hangs_is_limited(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full never answers a SYN; here the connector never gets to it."""
    server, client = await start()

    async def never(*_arguments: Any) -> Any:
        await asyncio.sleep(60)

    session = await client._core.connections.manager.pool.session()
    monkeypatch.setattr(session.connector, "_create_connection", never)
    with pytest.raises(APITimeoutError) as caught:
        await create_completion(client, timeout=Timeout(connect=0.05))
    assert (caught.value.phase, caught.value.ambiguous) == ("connect", False)
    assert [] == server.requests


async def test_a_loss_in_the_callers_own_session_may_have_been_sent() -> None:
    """A foreign session tells nothing of its phases: what is lost there is not repeated."""
    async with (
        serve(reply_writes([CLOSE]), reply_writes([HOLD])) as server,
        aiohttp.ClientSession() as session,
    ):
        client = AsyncGradient(
            inference_endpoint=server.url, model_access_key="k", session=session, max_retries=2
        )
        with pytest.raises(APIConnectionError) as caught:
            await create_completion(client)
        assert (caught.value.ambiguous, len(server.requests)) == (True, 1)
        with pytest.raises(APITimeoutError):
            await create_completion(client, timeout=Timeout(connect=0.05, response=0.05))
        assert len(server.requests) == 2


NOWHERE: Any = None  # a connection key that only the message would use


class _Response(aiohttp.ClientResponse):
    """aioresponses does not know of an argument that aiohttp has come to require."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)


@pytest.fixture
def replies() -> Any:
    with aioresponses() as mocked:
        yield mocked


def call(**changes: Any) -> Call:
    facts: dict[str, Any] = {
        "method": "POST",
        "url": "http://127.0.0.1:9/v1/x",
        "query": (),
        "headers": {},
        "key": Secret("key-0123456"),
        "body": b"{}",
        "stream": False,
        "timeout": Timeout(),
        "max_retries": 0,
        "retry": Retry(),
        "limits": Limits(),
    }
    return Call(**(facts | changes))


async def test_the_session_is_asked_for_one_request_without_redirects(replies: Any) -> None:
    """What aiohttp is called with, seen from its side."""
    replies.post("http://127.0.0.1:9/v1/x?a=1", body=b'{"ok": 1}', response_class=_Response)
    async with aiohttp.ClientSession() as session:
        reply = await SessionManager(session=session).send(call(query=(("a", "1"),)))
        assert (reply.status, await reply.read_all(Limits())) == (200, b'{"ok": 1}')
    ((_, requests),) = replies.requests.items()
    (request,) = requests
    assert request.kwargs["allow_redirects"] is False
    assert request.kwargs["data"] == b"{}"
    assert repr(request.kwargs["headers"]["Authorization"]) == "'…'"


@pytest.mark.parametrize(
    ("raised", "phase", "code", "says"),
    [
        (aiohttp.ServerDisconnectedError(), "response", None, "without an answer"),
        (TimeoutError(), "response", None, "without an answer"),
        (ConnectionResetError(), "response", None, "without an answer"),
        (ValueError("bad\nheader"), "response", None, "not HTTP: bad\\nheader"),
        (RuntimeError("Session is closed"), "connect", None, "session was closed"),
        (aiohttp.ConnectionTimeoutError(), "connect", None, "connect timeout"),
        (aiohttp.ClientConnectorError(NOWHERE, OSError("refused")), "connect", None, "no connection"),
        (aiohttp.ClientConnectorSSLError(NOWHERE, OSError("expired")), "connect", "tls", "expired"),
    ],
)
async def test_whatever_aiohttp_raises_is_mapped(
    replies: Any, raised: Exception, phase: str, code: str | None, says: str
) -> None:
    replies.post("http://127.0.0.1:9/v1/x", exception=raised)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(APIConnectionError) as caught:
            await SessionManager(session=session).send(call())
    assert (caught.value.phase, caught.value.code) == (phase, code)
    assert says in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_manager_closed_from_one_loop_closes_the_sessions_of_others() -> None:
    """Each in its own loop."""
    manager = SessionManager()
    opened, closing = threading.Event(), threading.Event()
    others: list[aiohttp.ClientSession] = []

    async def elsewhere() -> None:
        others.append(await manager.pool.session())
        opened.set()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if others[0].closed:
                return

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    await asyncio.to_thread(opened.wait)
    await manager.pool.session()
    await manager.close()
    await asyncio.to_thread(thread.join)
    assert others[0].closed
    del closing
    with pytest.raises(ConfigurationError, match="has been closed"):
        await manager.send(call())


def test_a_manager_dropped_elsewhere_closes_its_sessions_where_they_live() -> None:
    holder = [SessionManager()]
    sessions: list[aiohttp.ClientSession] = []

    async def main() -> None:
        sessions.append(await holder[0].pool.session())
        await asyncio.to_thread(holder.clear)
        await asyncio.sleep(0.05)
        assert sessions[0].closed

    asyncio.run(main())
    leftover = [SessionManager()]

    async def open_only() -> None:
        sessions.append(await leftover[0].pool.session())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(open_only())
    leftover.clear()
    assert sessions[1].closed
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    gc.collect()


async def test_a_body_is_given_up_where_its_loop_has_ended_without_a_word() -> None:
    """Nothing can be closed in a loop that is no more."""

    def run() -> Any:
        async def main() -> Any:
            server = serve(reply_writes([head(200, {"content-type": "text/event-stream"}), HOLD]))
            await server.start()
            client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")
            stream = await open_stream(client)
            await client.close()
            await server.stop()
            return stream

        return asyncio.run(main())

    stream = await asyncio.to_thread(run)
    stream._reader.abandon()
    await stream.aclose()
    assert not stream.completed


async def test_a_session_whose_loop_has_ended_is_passed_over() -> None:
    manager = SessionManager()

    async def elsewhere() -> aiohttp.ClientSession:
        return await manager.pool.session()

    def run() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(elsewhere())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        return loop

    loop = await asyncio.to_thread(run)
    await manager.close()
    assert loop.is_closed()


def test_a_session_that_takes_its_time_to_close_is_not_waited_for() -> None:
    """As TLS does, which says goodbye."""
    steps: list[str] = []

    class Slow:
        async def close(self) -> None:
            steps.append("sockets closed")
            await asyncio.sleep(0)
            steps.append("waited")

    class Quick:
        async def close(self) -> None:
            steps.append("closed")

    slow: Any = Slow()
    _close_now(slow, _keep(slow))
    quick: Any = Quick()
    _close_now(quick, _keep(quick))
    assert steps == ["sockets closed", "closed"]


async def test_a_key_of_a_letter_is_no_secret(start: Start) -> None:
    """Servers that need no key take any: its letters are not taken out of every word."""
    _, client = await start(model_access_key="e")
    with pytest.raises(BadRequestError, match="asked for"):
        await create_completion(client, model="error-400")


async def test_a_closing_connection_tells_a_moment_later_why() -> None:
    """TLS is refused in a turn of the event loop after the one that closes the transport."""
    connection: Any = SimpleNamespace(protocol=None)
    used: Any = SimpleNamespace(lost=None)
    why = ConnectionResetError()
    asyncio.get_running_loop().call_soon(setattr, used, "lost", why)
    with pytest.raises(UnsentError) as caught:
        await _refuse_closed(connection, used)
    assert caught.value.__cause__ is why
