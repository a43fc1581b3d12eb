"""What connections do with heads of replies and with pauses, whichever of aiohttp's parsers reads them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from aiohttp.helpers import DEFAULT_CHUNK_SIZE
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import APIConnectionError, AsyncGradient, StreamLimitError
from gradient_async.testing import (
    CLOSE,
    HOLD,
    Connection,
    Request,
    chunk,
    head,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)
from gradient_async.testing import completion as whole

pytestmark = pytest.mark.usefixtures("either_parser")

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"
CHUNKED = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
OK = reply_json(whole("ok")).data


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize(
    "pieces", [[b"SSH-2.0-x\r\n"], [b"SS", 0.01, b"H-2.0-x"], [b"HTTQ"], [b"\r\n\r\nHT", 0.01, b"!"]]
)
async def test_what_is_no_http_is_told_by_its_first_bytes(start: Start, pieces: list[Any]) -> None:
    """Nobody waits for the end of its first line, nor for the limit on time."""
    server, client = await start(reply_writes([*pieces, HOLD]), max_retries=2)
    began = time.monotonic()
    with pytest.raises(APIConnectionError, match="is not HTTP: it begins with") as caught:
        await create_completion(client)
    assert (caught.value.phase, caught.value.ambiguous, len(server.requests)) == ("response", True, 1)
    assert time.monotonic() - began < 0.02
    await server.wait_closed_connections()


async def test_lines_without_anything_may_come_before_a_reply(start: Start) -> None:
    server, client = await start(reply_writes([b"\r\n", 0.01, b"\r\n" + OK]))
    assert (await create_completion(client)).choices
    assert (await create_completion(client)).choices
    assert server.connections == 1


@pytest.mark.parametrize("begun", [EARLY_HINTS, EARLY_HINTS + b"HTT", b"H"])
async def test_a_server_that_gave_a_sign_is_not_asked_again(start: Start, begun: bytes) -> None:
    """An interim response is one, also on a pooled connection, which is not taken for one that was dead."""
    server, client = await start(reply_writes([OK]), reply_writes([begun, 0.02, CLOSE]), max_retries=2)
    assert (await create_completion(client)).choices
    with pytest.raises(APIConnectionError, match="inside the headers") as caught:
        await create_completion(client)
    assert (caught.value.phase, caught.value.attempts, len(server.requests)) == ("response", 1, 2)


async def test_two_lengths_are_no_length(start: Start) -> None:
    """The parser in C refuses both; that in Python would believe the first."""
    line, _, rest = OK.partition(b"\r\n")
    server, client = await start(reply_writes([line + b"\r\ncontent-length: 1\r\n" + rest]), max_retries=2)
    with pytest.raises(APIConnectionError, match=r"is not HTTP: .*[Cc]ontent-[Ll]ength") as caught:
        await create_completion(client)
    assert (caught.value.phase, len(server.requests)) == ("response", 1)
    await server.wait_closed_connections()


async def test_a_pause_at_the_end_of_what_came_holds_nothing_back(start: Start) -> None:
    """So much comes that reading pauses with its last byte; once it goes on, the rest is read as it comes."""
    most = 2 * DEFAULT_CHUNK_SIZE  # bytes that aiohttp holds before it pauses
    almost, more = ("x" * (most - 1000), "y" * 2000)
    steps = [http_chunk(sse(chunk(text), done=False)) for text in (almost, more)]
    last = http_chunk(sse(chunk("z", finish_reason="stop"))) + http_chunk(b"")
    server, client = await start(reply_writes([CHUNKED, steps[0], 0.05, steps[1], 0.2, last]))
    stream = await open_stream(client)
    async with stream, asyncio.timeout(5):
        await asyncio.sleep(0.15)
        completion = await stream.completion()
    assert almost + more + "z" == completion.choices[0].message.content
    assert (await create_completion(client)).choices
    assert server.connections == 1


async def test_a_pause_at_the_end_of_the_last_of_many_chunks_holds_nothing_back(start: Start) -> None:
    """Reading pauses for their number as well; what comes together once it goes on is read together."""
    most = DEFAULT_CHUNK_SIZE // 16  # ends of HTTP chunks that aiohttp holds before it pauses
    flood = b":" + b"-" * (most - 3) + b"\n\n"  # one, and that of the event before it, is one too many
    first, *others = (http_chunk(sse(chunk(text), done=False)) for text in "abc")
    last = http_chunk(sse(chunk("d", finish_reason="stop"))) + http_chunk(b"")
    tiny = b"".join(http_chunk(flood[at : at + 1]) for at in range(most))
    _, client = await start(reply_writes([CHUNKED + first, 0.05, tiny, 0.3, b"".join([*others, last]), HOLD]))
    stream = await open_stream(client)
    async with stream, asyncio.timeout(5):
        await anext(stream)
        await asyncio.sleep(0.25)
        completion = await stream.completion()
    assert "abcd" == completion.choices[0].message.content


async def test_a_server_waits_for_a_consumer_that_does_not_read(start: Start) -> None:
    """What is held of a reply stays bounded, and none of it is lost."""
    event, times = http_chunk(sse(chunk("x" * 10_000), done=False)), 2_000
    written = 0

    async def flood(_request: Request, connection: Connection) -> None:
        nonlocal written
        await connection.write(CHUNKED)
        for _ in range(times):
            await connection.write(event)
            written += 1
        await connection.write(http_chunk(sse(chunk("", finish_reason="stop"))) + http_chunk(b""))

    _, client = await start(handler=flood)
    stream = await open_stream(client)
    async with stream:
        for read in (1, 100):
            for _ in range(read):
                await anext(stream)
            before = -1
            while before < written:  # until the server is held up
                before = written
                await asyncio.sleep(0.05)
            assert written < times - 500
        completion = await stream.completion()
    assert 10_000 * times == len(completion.choices[0].message.content or "")


async def test_garbage_that_came_in_full_costs_the_connection_unless_another_call_has_it(
    start: Start,
) -> None:
    """By then the body has ended, and with it the hold on the connection."""
    garbage = reply_writes([reply_sse(chunk("a"), chunk("b", index=10**9)).data])

    async def slowly(_request: Request, connection: Connection) -> None:
        await connection.sleep(0.05)
        await connection.write(OK)

    server, client = await start(garbage, slowly, garbage)
    stream = await open_stream(client)
    await anext(stream)
    other = asyncio.create_task(create_completion(client))
    await server.wait_requests(2)
    with pytest.raises(StreamLimitError):
        await anext(stream)
    assert (await other).choices
    assert server.connections == 1
    stream = await client.chat.completions.create(stream=True, **CALL)
    await anext(stream)
    with pytest.raises(StreamLimitError):
        await anext(stream)
    await server.wait_closed_connections()


async def test_garbage_in_the_callers_own_session_is_told_as_ever() -> None:
    """Its connections are aiohttp's own, and nothing is done to one that the body has left already."""
    garbage = reply_writes([reply_sse(chunk("a"), chunk("b", index=10**9)).data])
    async with serve(garbage, reply_writes([OK])) as server, aiohttp.ClientSession() as session:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        stream = await open_stream(client)
        await anext(stream)
        with pytest.raises(StreamLimitError):
            await anext(stream)
        assert (await create_completion(client)).choices
        assert not session.closed
