"""Clients in other loops, after a fork, and over TLS: what works, and what is said where it can't."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import sys
import warnings
import weakref
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from cancellation import without_collector
from client_calls import Start, create_completion, open_stream

from gradient_async import APIConnectionError, AsyncGradient, ConfigurationError
from gradient_async.session import pool as pool_module
from gradient_async.testing import HOLD, chunk, reply_sse, reply_writes, serve

CERTIFICATE = Path(__file__).with_name("localhost.pem")  # self-signed, for these tests alone


def step(call: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine without a loop, as other libraries than asyncio would."""
    call.send(None)


def test_a_client_serves_one_loop_after_another() -> None:
    """Made outside any loop, and never closed."""
    with serve() as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")
        for _ in range(3):
            assert asyncio.run(create_completion(client)).choices
        assert len(server.requests) == server.connections == 3


def test_a_client_keeps_no_loop_that_has_closed() -> None:
    """Nor its session, once it is used in another."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    with serve() as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")

        async def once() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            await create_completion(client)

        for _ in range(3):
            asyncio.run(once())
    gc.collect()
    assert [True, True, False] == [loop() is None for loop in loops]


def test_without_a_loop_a_call_says_what_to_do() -> None:
    client = AsyncGradient(base_url="http://127.0.0.1:9", model_access_key="k")
    with pytest.raises(ConfigurationError, match=r"no asyncio event loop is running: .*asyncio\.run"):
        step(create_completion(client))


async def test_a_stream_read_in_another_loop_says_what_to_do(start: Start) -> None:
    wire = [*reply_sse(chunk("Hel")).steps[:2], HOLD]
    _, client = await start(reply_writes(wire), reply_writes(wire))
    stream = await open_stream(client)
    await anext(stream)

    def elsewhere(call: Any) -> Any:
        with pytest.raises(ConfigurationError, match="belongs to another event loop") as caught:
            asyncio.run(call())
        return caught.value

    assert await asyncio.to_thread(elsewhere, stream.__anext__)
    await stream.aclose()
    stream = await open_stream(client)
    await anext(stream)
    # A second reader in its own loop is not harmed by the stranger.
    assert await asyncio.to_thread(elsewhere, stream.completion)
    await stream.aclose()


async def test_a_session_of_another_loop_is_an_error_of_ours(start: Start) -> None:
    server, _ = await start()
    async with aiohttp.ClientSession() as session:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        await create_completion(client)

        def elsewhere() -> None:
            with pytest.raises(APIConnectionError, match="another event loop"):
                asyncio.run(create_completion(client))

        await asyncio.to_thread(elsewhere)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_begins_anew() -> None:
    """With connections of its own; the parent's go on, and its loop can't be used by the child."""
    with serve() as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(create_completion(client)).choices
        assert server.connections == 1
        child = os.fork()
        if child == 0:  # pragma: no cover  # another process
            status = 1
            try:
                try:
                    loop.run_until_complete(create_completion(client))
                except ConfigurationError as error:
                    if (
                        "this process was forked" in str(error)
                        and asyncio.run(create_completion(client)).choices
                    ):
                        asyncio.run(client.close())
                        status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0) == (child, 0)
        # The child's connection is another, and the parent's is still good.
        assert server.connections == 2
        assert loop.run_until_complete(create_completion(client)).choices
        assert server.connections == 2
        loop.run_until_complete(client.close())
        loop.close()


async def test_a_client_inherited_and_dropped_leaves_the_parents_sessions_alone(start: Start) -> None:
    server, client = await start()
    await create_completion(client)
    pool = client._core.connections.manager.pool
    session = await pool.session()
    pid, pool._pid = pool._pid, -1
    await pool.close()
    pool.__del__()
    assert not session.closed
    pool._pid, pool.closed = pid, False
    assert (await create_completion(client)).choices
    assert server.connections == 1


async def test_sessions_of_the_parent_are_neither_used_nor_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it looks from inside a forked process, which has a loop of its own."""
    server, client = await start()
    await create_completion(client)
    pool = client._core.connections.manager.pool
    session = await pool.session()
    pool._pid = -1

    def child() -> None:
        assert asyncio.run(create_completion(client)).choices

    inherited: list[Any] = []
    monkeypatch.setattr(pool_module, "keep_for_ever", inherited.append)
    await asyncio.to_thread(child)
    (kept,) = inherited
    assert (2, False, os.getpid()) == (server.connections, session.closed, pool._pid)
    pool._sessions = kept  # the parent's again, and closed with the client


async def test_a_session_of_ones_own_can_not_be_taken_into_a_fork(start: Start) -> None:
    server, _ = await start()
    async with aiohttp.ClientSession() as session:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        await create_completion(client)
        client._core.connections.manager.pool._pid = -1
        with pytest.raises(ConfigurationError, match="forked"):
            await create_completion(client)


async def test_certificates_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for ends the call before anything is sent, and for good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply_sse(chunk("ok", finish_reason="stop")).data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with AsyncGradient(
        base_url=f"https://localhost:{port}", model_access_key="k", max_retries=2
    ) as client:
        with pytest.raises(APIConnectionError, match=r"TLS with .* failed: .*nothing was sent") as caught:
            await create_completion(client)
        assert (caught.value.code, caught.value.phase, caught.value.attempts) == ("tls", "connect", 1)
        assert requests == []
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
            own = AsyncGradient(base_url=f"https://localhost:{port}", model_access_key="k", session=session)
            stream = await open_stream(own)
            assert (await stream.completion()).choices[0].message.content == "ok"
    assert len(requests) == 1
    server.close()
    await server.wait_closed()


class Holder:
    """Holds a client, and itself: a reference cycle."""

    def __init__(self, client: AsyncGradient) -> None:
        self.client = client
        self.me = self


class Silence:
    """Collects what is reported to an event loop's exception handler, and warnings; the collector is off."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.broken: list[str] = []
        loop.set_exception_handler(lambda _, context: self.broken.append(context["message"]))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(without_collector())
        self._warned = self._stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self._stack.close()
        self.broken += [str(warning.message) for warning in self._warned or ()]


async def hold_clients(url: str) -> list[Holder]:
    """Make clients with an idle connection each; so many, because the collector's order of finalizers varies."""
    holders = [Holder(AsyncGradient(base_url=url, model_access_key="k")) for _ in range(20)]
    for holder in holders:
        await create_completion(holder.client)
    return holders


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("collected", ["here", "in another thread"])
@pytest.mark.parametrize("connections", ["idle", "closed"])
async def test_clients_dropped_in_cycles_are_closed_in_silence(
    connections: str, collected: str, *, debug: bool
) -> None:
    """The collector finalizes the objects of a cycle in any order, and aiohttp's report sessions that are open."""
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    with Silence(loop) as silence:
        async with serve() as server:
            holders = await hold_clients(server.url)
            if connections == "closed":
                await server.stop()
                await asyncio.sleep(0.01)
            holders.clear()
            if collected == "here":
                gc.collect()
            else:
                await asyncio.to_thread(gc.collect)
            await server.wait_closed_connections()
        await asyncio.sleep(0.01)  # tasks that close generators end
    assert [] == silence.broken


@pytest.mark.parametrize("dropped", ["while its loop is stopped", "after its loop has closed"])
def test_clients_dropped_in_cycles_outside_their_loop_are_silent(dropped: str) -> None:
    """Whether the loop closes them when it runs again, or never."""
    loop = asyncio.new_event_loop()
    with Silence(loop) as silence:
        with serve() as server:
            holders = loop.run_until_complete(hold_clients(server.url))
            if dropped == "while its loop is stopped":
                holders.clear()
                gc.collect()
                while server.open_connections:
                    loop.run_until_complete(asyncio.sleep(0.001))
        loop.run_until_complete(asyncio.sleep(0.01))  # the connections are closed
        loop.close()
        holders.clear()
    assert [] == silence.broken


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_clients_in_cycles_that_a_forked_process_drops_go_on_in_its_parent() -> None:
    """A connection that the child closes is closed for the parent's event loop as well."""
    loop = asyncio.new_event_loop()
    with serve() as server:
        holders = loop.run_until_complete(hold_clients(server.url))
        child = os.fork()
        if child == 0:  # pragma: no cover  # another process
            try:
                holders.clear()
                gc.collect()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        for holder in holders:
            assert loop.run_until_complete(create_completion(holder.client, timeout=5)).choices
        assert len(holders) == server.connections
        for holder in holders:
            loop.run_until_complete(holder.client.close())
    loop.close()
