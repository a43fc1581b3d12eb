"""What stands between a transport and aiohttp: each byte is seen before aiohttp sees it, and none is lost."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from client_calls import Start, create_completion

from gradient_async import APIConnectionError, AsyncGradient, OverloadedError
from gradient_async.session.connector import Connection, Connector, buffer_of
from gradient_async.session.exceptions import UnsentError
from gradient_async.testing import Connection as ServerConnection
from gradient_async.testing import head, http_chunk, reply_json, serve

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"
BODY = b"ten bytes."
SIZED, CHUNKED = {"content-length": "10"}, {"transfer-encoding": "chunked"}


class Wire:
    """One connection, fed by a test."""

    def __init__(self, interim_left: int = 16) -> None:
        self.closed = False
        transport: Any = SimpleNamespace(close=self._close, is_closing=lambda: self.closed)
        self.handler = ResponseHandler(asyncio.get_running_loop())
        self.handler.transport = transport
        self.handler.set_response_params(read_until_eof=True)
        self.connection = Connection(transport, self.handler, memoryview(bytearray(1000)))
        progress: Any = SimpleNamespace(begun=False, interim_left=interim_left)
        self.progress = progress
        self.connection.expect_reply(self.progress)

    def _close(self) -> None:
        self.closed = True

    def receive(self, data: bytes) -> None:
        """Do what an event loop does when bytes arrive."""
        buffer = self.connection.get_buffer(-1)
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))

    async def codes(self) -> list[int]:
        """Take the codes of the heads that aiohttp has got."""
        return [(await self.handler.read())[0].code for _ in range(len(self.handler))]

    async def attached(self, headers: dict[str, str]) -> aiohttp.StreamReader:
        """Take the head that has come, and return the body."""
        _, content = await self.handler.read()
        response: Any = SimpleNamespace(content=content, headers=headers)
        self.connection.attach(response)
        return content


@pytest.mark.usefixtures("either_parser")
async def test_heads_may_be_cut_anywhere() -> None:
    """Interim responses are counted once each, whichever bytes come together."""
    data = b"\r\n" + EARLY_HINTS + b"\r\n" + EARLY_HINTS + head(200, SIZED) + BODY
    cuts: list[list[bytes]] = [[data[:at], data[at:]] for at in range(len(data) + 1)]
    for pieces in [*cuts, [data[at : at + 1] for at in range(len(data))]]:
        wire = Wire()
        for piece in pieces:
            wire.receive(piece)
        assert 14 == wire.progress.interim_left
        assert 3 == len(wire.handler)
        for _ in range(2):
            await wire.handler.read()
        assert BODY == (await wire.attached(SIZED)).read_nowait()
        assert not wire.closed


@pytest.mark.usefixtures("either_parser")
async def test_one_interim_response_too_many_is_passed_over_but_not_the_reply_behind_it() -> None:
    wire = Wire(interim_left=1)
    wire.receive(EARLY_HINTS * 2 + head(200, SIZED) + BODY)
    assert ([103, 103], True) == (await wire.codes(), wire.closed)
    assert type(wire.handler.exception()).__name__ == "TooManyInterimError"


async def test_what_comes_between_replies_closes_the_connection() -> None:
    wire = Wire()
    wire.receive(head(200, SIZED) + BODY)
    await wire.attached(SIZED)
    assert not wire.closed
    wire.receive(b"H")
    assert (wire.closed, len(wire.handler)) == (True, 0)


async def test_a_connection_that_receives_while_it_closes_is_closed_once() -> None:
    """TLS does so. Its transport cannot be asked for its protocol any more when it is closed twice."""
    wire = Wire()
    closes: list[str] = []
    transport: Any = wire.connection._transport

    def close() -> None:
        closes.append("close")
        wire.receive(b"more")

    transport.close = close
    wire.receive(b"SSH-2.0")
    assert ["close"] == closes


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("headers", "body", "loss", "error"),
    [
        pytest.param(
            {}, b"some", ConnectionResetError("reset"), aiohttp.ClientOSError, id="reset, no length"
        ),
        pytest.param({}, b"some", None, None, id="end, no length"),
        pytest.param(SIZED, BODY, ConnectionResetError("reset"), None, id="reset after all"),
        pytest.param(SIZED, BODY[:4], ConnectionResetError("reset"), aiohttp.ClientError, id="reset, length"),
        pytest.param(SIZED, BODY[:4], None, aiohttp.ClientPayloadError, id="end, length"),
        pytest.param(CHUNKED, http_chunk(BODY), None, aiohttp.ClientPayloadError, id="end, chunked"),
        pytest.param(CHUNKED, b"zz\r\n", None, aiohttp.ClientPayloadError, id="garbage"),
    ],
)
async def test_the_reader_of_a_body_gets_to_know_what_ended_it(
    headers: dict[str, str], body: bytes, loss: Any, error: Any, *, late: bool
) -> None:
    """Also where the connection was lost before anybody had taken the head."""
    wire = Wire()
    wire.receive(head(200, headers))
    content = None if late else await wire.attached(headers)
    wire.receive(body)
    wire.connection.eof_received()
    wire.connection.connection_lost(loss)
    content = content or await wire.attached(headers)
    found = content.exception()
    assert found is None if error is None else isinstance(found, error)
    assert content.is_eof() or found is not None  # no read waits
    assert wire.connection._take == wire.handler.data_received  # no method of its own: no reference cycle
    wire.connection.parse_on()


async def test_a_connection_lost_while_it_was_made_was_not_used() -> None:
    connector = Connector(owner=Connector, max_connections=1)
    lost: Any = SimpleNamespace(transport=None, protocol=None)
    with pytest.raises(UnsentError):
        connector._begin_to_use(lost)
    await connector.close()


@pytest.mark.usefixtures("needs_asyncio")  # uvloop has read the bytes before the connection is the library's
async def test_a_server_that_speaks_first_is_told_by_what_it_says() -> None:
    async def greet(connection: ServerConnection) -> None:
        await connection.write(b"SSH-2.0-OpenSSH_9.9\r\n")

    async with (
        serve(on_accept=greet) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k", max_retries=0) as client,
    ):
        with pytest.raises(APIConnectionError, match=r"is not HTTP: it begins with 'SSH-2\.0"):
            await create_completion(client)
        await server.wait_closed_connections()


async def test_a_server_that_refuses_before_it_is_asked_is_understood(start: Start) -> None:
    """As a gateway that has no room does."""

    async def refuse(connection: ServerConnection) -> None:
        reply = reply_json({"error": {"message": "no room"}}, 503, {"connection": "close"})
        await connection.write(reply.data)

    async with (
        serve(on_accept=refuse) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k", max_retries=0) as client,
    ):
        with pytest.raises(OverloadedError, match="no room"):
            await create_completion(client)


async def test_a_queue_is_first_come_first_served(start: Start) -> None:
    """Who is cancelled while waiting for a connection takes none away."""
    _, client = await start(max_connections=1)
    ended: list[int] = []

    async def work(number: int) -> None:
        await create_completion(client)
        ended.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert [0, 1, 3, 4, 5] == ended


@pytest.mark.parametrize("moment", ["while it waits", "just before its turn", "just behind its turn"])
async def test_a_cancelled_request_passes_its_place_on(moment: str) -> None:
    connector = Connector(owner=Connector, max_connections=0)
    progress: Any = SimpleNamespace(queued=0.0)
    first, second = [asyncio.create_task(connector._wait_for_place(progress)) for _ in range(2)]
    await asyncio.sleep(0)
    if moment == "just behind its turn":
        connector._free_place()
        first.cancel()
    else:
        first.cancel()
        if moment == "while it waits":
            await asyncio.sleep(0)
        connector._free_place()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.exception() is None
    assert connector._places == 0
    connector._free_place()
    assert connector._places == 1
    await connector.close()


async def test_connections_of_a_loop_receive_into_one_buffer(start: Start) -> None:
    """An event loop would allocate 256 KiB for each read of an `asyncio.Protocol`, and some programs have many clients."""
    clients = [(await start())[1] for _ in range(3)]
    buffers: list[memoryview] = []

    class Noted(Connection):
        def get_buffer(self, sizehint: int) -> memoryview:
            buffers.append(super().get_buffer(sizehint))
            return buffers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradient_async.session.connector.Connection", Noted)
        await asyncio.gather(*(create_completion(client) for client in clients * 2))
    assert len(buffers) >= 6
    assert len({id(buffer) for buffer in buffers}) == 1
    freed = weakref.ref(buffers.pop())
    buffers.clear()
    assert freed() is buffer_of(asyncio.get_running_loop())
    while clients:
        await clients.pop().close()
    gc.collect()
    assert freed() is None
