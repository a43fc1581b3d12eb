"""Rows of the fault list where the connection is not made, or lost before an answer."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, BOTH_WAYS, RETRYING, WHOLE, Ask, ask_repeatedly, healthy_for
from fault_rows import TEXT, Start, asked, expect_connection, failed

from gradient_async import APIConnectionError, AsyncGradient, Retry
from gradient_async.testing import CLOSE, RESET, Connection, Request, Server, reply_writes, serve
from gradient_async.testing.script import Command

KEY = "model-key-0123"


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that is taken, so that nobody else gets it, and that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        pytest.param(Retry(max_backoff=0.02), 3, id="retried"),
        pytest.param(Retry(budget=0.0), 1, id="no_budget"),
    ],
)
async def test_connect_refused(ask: Ask, dead_port: int, retry: Retry, attempts: int) -> None:
    """Nothing was sent, so it is tried again, within the budget; the error names the place, not the key."""
    url = f"http://127.0.0.1:{dead_port}"
    async with AsyncGradient(
        inference_endpoint=url, model_access_key=KEY, max_retries=2, retry=retry
    ) as client:
        seen = await ask(client)
    error = failed(
        seen, APIConnectionError, says=f"127.0.0.1:{dead_port}", phase="connect", attempts=attempts
    )
    assert not error.ambiguous
    assert KEY not in f"{error} {error!r} {vars(error)}"


@asynccontextmanager
async def rude(command: Command, times: int, **options: Any) -> AsyncGenerator[tuple[Server, AsyncGradient]]:
    """A server that ends its first connections as it accepts them."""

    async def accepted(connection: Connection) -> None:
        if connection.number <= times:
            if command is CLOSE:
                connection.close()
            else:
                connection.reset()

    async with (
        serve(on_accept=accepted) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key=KEY, **options) as client,
    ):
        yield server, client


@BOTH_WAYS
@pytest.mark.parametrize(
    ("options", "attempts"),
    [pytest.param(RETRYING, 1, id="once"), pytest.param(AMBIGUOUS, 3, id="ambiguous")],
)
@pytest.mark.parametrize(
    "command", [pytest.param(CLOSE, id="accept_close"), pytest.param(RESET, id="accept_rst")]
)
async def test_a_connection_lost_at_accept_is_a_request_not_answered(
    ask: Ask, command: Command, options: Mapping[str, Any], attempts: int
) -> None:
    async with rude(command, attempts, **options) as (server, client):
        seen = await ask(client)
        error = failed(seen, APIConnectionError, attempts=attempts)
        # The loss and the request may cross each other; found before the request, it is no question.
        assert (error.phase, error.ambiguous) in {("send", False), ("response", True)}
        assert (attempts, 0) == (server.connections, len(server.requests))
        await expect_connection(server, client, "closed")


def reset_all(listener: socket.socket, accepted: list[int]) -> None:
    """Reset every connection as soon as it is there, until the listener is closed."""
    while True:
        try:
            connection, (_, port) = listener.accept()
        except OSError:
            return
        accepted.append(port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


@BOTH_WAYS
async def test_a_connection_reset_while_it_is_made_was_made(ask: Ask) -> None:
    """A server in a thread of its own is quicker than the loop: it counts as reset at accept all the same."""
    accepted: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rude = threading.Thread(target=reset_all, args=(listener, accepted))
        rude.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            for count in range(1, 9):
                async with AsyncGradient(inference_endpoint=url, model_access_key=KEY, **RETRYING) as client:
                    error = failed(await ask(client), APIConnectionError, attempts=1)
                assert (error.phase, error.ambiguous) in {("send", False), ("response", True)}
                assert count == len(accepted)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            rude.join()


@BOTH_WAYS
@pytest.mark.parametrize(
    ("options", "posts"),
    [pytest.param(RETRYING, 1, id="once"), pytest.param(AMBIGUOUS, 3, id="ambiguous")],
)
@pytest.mark.parametrize(
    "command", [pytest.param(CLOSE, id="close_no_response"), pytest.param(RESET, id="rst_no_response")]
)
async def test_a_request_without_an_answer_is_sent_again_only_if_allowed(
    start: Start, ask: Ask, command: Command, options: Mapping[str, Any], posts: int
) -> None:
    """The server may have done the work: who can't pay twice is not made to."""
    server, client, seen = await ask_repeatedly(start, ask, reply_writes([command]), posts=posts, **options)
    failed(seen, APIConnectionError, phase="response", ambiguous=True, attempts=posts)
    assert posts == server.connections
    await expect_connection(server, client, "closed")


@BOTH_WAYS
@pytest.mark.parametrize(
    ("options", "before"),
    [
        pytest.param(RETRYING, 0, id="fresh"),
        pytest.param(AMBIGUOUS, 0, id="ambiguous"),
        pytest.param(RETRYING, 1, id="pooled"),
    ],
)
@pytest.mark.usefixtures("either_parser")
async def test_partial_headers(start: Start, ask: Ask, options: Mapping[str, Any], before: int) -> None:
    """A server that has begun to answer is never asked again, whatever connection it was."""
    answer = reply_writes([b"HTTP/1.1 200 OK\r\nContent-", 0.02, CLOSE])
    server, client = await start(*[WHOLE] * before, answer, **options)
    for _ in range(before):
        assert TEXT == (await asked(client)).delivered
    seen = await ask(client)
    failed(seen, APIConnectionError, phase="response", ambiguous=True, attempts=1)
    assert (before + 1, 1) == (len(server.requests), server.connections)
    await expect_connection(server, client, "closed")


@BOTH_WAYS
@pytest.mark.parametrize("command", [CLOSE, RESET], ids=["fin", "rst"])
async def test_stale_keepalive(start: Start, ask: Ask, command: Command) -> None:
    """A pooled connection that is dead when used is replaced once, without counting as a retry."""
    server, client = await start(WHOLE, reply_writes([command]))
    assert TEXT == (await asked(client)).delivered
    server.push(healthy_for(ask))
    seen = await ask(client)
    assert (TEXT, None) == (seen.delivered, seen.error)
    assert seen.completion is not None
    assert (1, 3, 2) == (seen.completion.attempts, len(server.requests), server.connections)
    await expect_connection(server, client, "reused")
    assert 1 == server.open_connections


@BOTH_WAYS
async def test_a_dead_connection_is_replaced_by_a_fresh_one(start: Start, ask: Ask) -> None:
    """A server that restarts leaves a whole pool of dead connections; one of those is no replacement."""
    met: set[int] = set()

    async def once(request: Request, connection: Connection) -> None:
        if connection.number in met:
            connection.close()
            return
        met.add(connection.number)
        await connection.sleep(0.05)  # so that each of several calls has a connection of its own
        await healthy_for(asked if len(met) <= 3 else ask)(request, connection)

    server, client = await start(*[once] * 8)
    assert [TEXT] * 3 == [seen.delivered for seen in await asyncio.gather(*[asked(client) for _ in range(3)])]
    seen = await ask(client)
    assert (TEXT, None) == (seen.delivered, seen.error)
    assert (5, 4) == (len(server.requests), server.connections)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("losses", "posts"),
    [
        pytest.param([[CLOSE], [CLOSE]], 3, id="twice"),
        pytest.param([[1.05, CLOSE]], 2, id="late"),
    ],
)
async def test_a_pooled_connection_is_replaced_once_and_only_if_lost_at_once(
    start: Start, ask: Ask, losses: list[list[Any]], posts: int
) -> None:
    server, client = await start(WHOLE, *map(reply_writes, losses), **RETRYING)
    assert TEXT == (await asked(client)).delivered
    seen = await ask(client)
    failed(seen, APIConnectionError, phase="response", ambiguous=True, attempts=1)
    assert posts == len(server.requests)


@BOTH_WAYS
async def test_idle_close(start: Start, ask: Ask) -> None:
    """A connection that the server closed while it idled is not tried."""
    server, client = await start(reply_writes([WHOLE.data, 0.15, CLOSE]))
    assert TEXT == (await asked(client)).delivered
    await asyncio.sleep(0.25)
    server.push(healthy_for(ask))
    seen = await ask(client)
    assert (TEXT, None) == (seen.delivered, seen.error)
    assert (2, 2) == (len(server.requests), server.connections)
    await expect_connection(server, client, "reused")
