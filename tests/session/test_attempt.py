"""What the session makes of aiohttp's connections."""

from __future__ import annotations

import asyncio
import gzip
import math
import socket
import time
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from client_calls import MESSAGES, Start, create_completion, open_stream

from gradient_async import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APITimeoutError,
    AsyncGradient,
    ConfigurationError,
    Limits,
    RequestTooLargeError,
    StreamInterruptedError,
    Timeout,
)
from gradient_async.session.attempt import _body_of
from gradient_async.session.connector import open_socket
from gradient_async.session.deadlines import AttemptProgress, DeadlineTimer
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    chunk,
    early,
    forever,
    head,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)
from gradient_async.testing import completion as whole

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"


async def test_interim_responses_are_passed_over(start: Start) -> None:
    """Each reply may have as many as there may be, also on a connection used before."""
    reply = reply_writes([EARLY_HINTS * 16 + reply_json(whole("ok")).data])
    server, client = await start(reply, reply, reply)
    for _ in range(2):
        assert (await create_completion(client)).choices
    assert (await (await open_stream(client)).completion()).choices
    assert server.connections == 1


async def test_info_1xx_forever(start: Start) -> None:
    """More than sixteen are an error at once, however fast or slow they come; and it is not repeated."""
    for step in ([EARLY_HINTS], [EARLY_HINTS, 0.01]):
        server, client = await start(reply_writes([forever(*step)]), max_retries=2)
        with pytest.raises(APITimeoutError, match="interim_responses=16") as caught:
            await create_completion(client)
        assert (caught.value.phase, caught.value.ambiguous, len(server.requests)) == ("response", True, 1)
        await server.wait_closed_connections()
    server, client = await start(
        reply_writes([forever(EARLY_HINTS, 0.05)]), limits=Limits(interim_responses=1000), max_retries=2
    )
    with pytest.raises(APITimeoutError, match=r"Timeout\.response") as caught:
        await create_completion(client, timeout=Timeout(response=0.2))
    assert (caught.value.phase, len(server.requests)) == ("response", 1)
    # What one client of a task allows is not what the next one does.
    _, client = await start(reply_writes([forever(EARLY_HINTS)]))
    with pytest.raises(APITimeoutError, match="interim_responses=16"):
        await create_completion(client)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("size", [10, 40_000], ids=["written here", "left to aiohttp"])
@pytest.mark.parametrize("most", [2, 16])
async def test_info_1xx_are_counted_whoever_writes_the_request(start: Start, size: int, most: int) -> None:
    """As many as the limit are passed over, one more is an error though the reply comes along with it."""
    messages = [{"role": "user", "content": "x" * size}]
    last = reply_json(whole("ok")).data
    server, client = await start(
        reply_writes([EARLY_HINTS * most + last]),
        reply_writes([EARLY_HINTS * (most + 1) + last]),
        limits=Limits(interim_responses=most),
        max_retries=2,
    )
    assert (await create_completion(client, messages=messages)).choices
    with pytest.raises(APITimeoutError, match=f"interim_responses={most}"):
        await create_completion(client, messages=messages)
    assert 2 == len(server.requests)


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("begun", [b"HTTP/1.1 2", head(200)[:-2], EARLY_HINTS + b"HTTP/1.1 200 OK\r\nserv"])
async def test_a_reply_that_had_begun_is_not_asked_for_again(start: Start, begun: bytes, end: Any) -> None:
    """Not on a pooled connection either: the server was there, and may have worked."""
    server, client = await start(max_retries=2)
    await create_completion(client)
    server.push(reply_writes([begun, 0.02, end]))
    with pytest.raises(APIConnectionError, match="inside the headers") as caught:
        await create_completion(client)
    assert (caught.value.phase, caught.value.ambiguous, len(server.requests)) == ("response", True, 2)


async def test_a_loss_in_the_body_is_told_from_one_before(start: Start) -> None:
    """A reset in a body that ends with the connection is not taken for its end."""
    reply = head(200, {"content-type": "application/json", "connection": "close"}) + b'{"a": 1}'
    server, client = await start(reply_writes([reply, 0.02, RESET]), max_retries=2)
    with pytest.raises(APIConnectionError) as caught:
        await create_completion(client)
    assert (caught.value.phase, len(server.requests)) == ("body", 1)


@pytest.mark.parametrize(
    ("headers", "limits", "ok"),
    [
        ({f"x-{number}": "v" for number in range(100)}, Limits(), True),
        ({f"x-{number}": "v" for number in range(200)}, Limits(), False),
        ({f"x-{number}": "v" for number in range(200)}, Limits(headers=300), True),
        ({"x-long": "v" * 9000}, Limits(), False),
        ({"x-long": "v" * 9000}, Limits(header_bytes=10_000), True),
        ({"x-long": "v" * 90}, Limits(header_bytes=80), False),
    ],
)
async def test_headers_are_bounded(start: Start, headers: Any, limits: Limits, ok: bool) -> None:
    server, client = await start(reply_json(whole("ok"), 200, headers), max_retries=2)
    client = client.with_options(limits=limits)
    if ok:
        assert (await create_completion(client)).choices
        return
    with pytest.raises(APIConnectionError, match=r"headers .* are too large: .*headers=\d+") as caught:
        await create_completion(client)
    assert (caught.value.phase, len(server.requests)) == ("response", 1)
    await server.wait_closed_connections()


@pytest.mark.parametrize("size", [1_000, 300_000, 20_000_000])
async def test_early_413(start: Start, size: int) -> None:
    """The server refuses after the headers, and closes with the body unread: its answer is read all the same."""

    async def refuse(_request: Any, connection: Any) -> None:
        reply = reply_json({"error": {"message": "too big"}}, 413, {"connection": "close"})
        await connection.write(reply.data)
        connection.close()

    server, client = await start(early(refuse), max_retries=2)
    with pytest.raises(RequestTooLargeError, match="too big"):
        await create_completion(client, messages=[{"role": "user", "content": "x" * size}])
    assert len(server.requests) == 1
    await server.wait_closed_connections()
    assert (await create_completion(client)).choices
    assert server.connections == 2


async def test_large_requests_arrive_whole_and_leave_the_loop_free(start: Start) -> None:
    """Also without a ResourceWarning, which aiohttp has for large bodies."""
    server, client = await start(reply_json(whole("ok")))
    text = "".join(f"{number:07}" for number in range(1_000_000))
    await create_completion(client, messages=[{"role": "user", "content": text}])
    assert server.requests[0].json["messages"][0]["content"] == text


def test_a_large_body_shows_itself_as_text() -> None:
    body = _body_of(b"x" * 300_000)
    assert not isinstance(body, (bytes, type(None)))
    assert (300_000, "x" * 300_000) == (body.size, body.decode())
    assert (b"x", None) == (_body_of(b"x"), _body_of(None))


@pytest.mark.usefixtures("virtual_time")
async def test_connect_hang() -> None:
    """A listener whose queue is full never answers; nothing was sent, so the connection is tried again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            await asyncio.sleep(0.05)
            client = AsyncGradient(
                base_url=f"http://127.0.0.1:{address[1]}", model_access_key="k", max_retries=1
            )
            began = time.monotonic()
            async with client:
                with pytest.raises(APITimeoutError, match=r"nothing was sent|Timeout\.connect") as caught:
                    await create_completion(client, timeout=Timeout(connect=0.2))
            error = caught.value
            assert (error.phase, error.ambiguous, error.attempts) == ("connect", False, 2)
            assert 0.4 <= time.monotonic() - began < 1.0
            assert f"127.0.0.1:{address[1]}" in str(error)
        finally:
            for filler in fillers:
                filler.close()


async def test_connections_find_out_that_their_peer_has_vanished(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TCP keep-alive is on; where a system can't be told how often, as often as it likes."""
    _, client = await start()
    await create_completion(client)
    session = await client._core.connections.manager.pool.session()
    connector: Any = session.connector
    ((pooled, *_),) = connector._conns.values()
    sock = pooled[0].transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
        monkeypatch.delattr(socket, name)
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))) as plain:
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize(
    ("steps", "kind", "facts"),
    [
        ([HOLD], APITimeoutError, {"phase": "response"}),
        ([0.02, RESET], APIConnectionError, {"phase": "body"}),
    ],
)
async def test_what_ends_a_reply_read_in_pieces_is_mapped(
    start: Start, steps: list[Any], kind: type[APIConnectionError], facts: dict[str, Any]
) -> None:
    wire = reply_json(whole("ok")).data[:-5]
    _, client = await start(reply_writes([wire, *steps]), timeout=Timeout(response=0.2))
    completions: Any = client.chat.completions
    pieces: list[bytes] = []
    with pytest.raises(kind) as caught:
        async with completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
            async for piece in response.iter_bytes():
                pieces.append(piece)  # noqa: PERF401  # what came before the error counts
    assert type(caught.value) is kind
    assert facts == {name: getattr(caught.value, name) for name in facts}
    assert b"".join(pieces) == wire.partition(b"\r\n\r\n")[2]


async def test_a_reply_read_in_pieces_is_unpacked(start: Start) -> None:
    body = gzip.compress(b"text " * 1000)
    _, client = await start(
        reply_bytes(body, 200, {"content-encoding": "gzip"}),
        reply_bytes(b"lie", 200, {"content-encoding": "gzip"}),
    )
    completions: Any = client.chat.completions
    async with completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
        assert b"".join([piece async for piece in response.iter_bytes()]) == b"text " * 1000
    async with completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
        with pytest.raises(APIResponseValidationError, match=r"can't be read: .* not gzip"):
            [piece async for piece in response.iter_bytes()]


async def test_two_tasks_can_not_read_one_reply_in_pieces(start: Start) -> None:
    _, client = await start(reply_writes([reply_json(whole("ok")).data[:-5], HOLD]))
    completions: Any = client.chat.completions
    async with completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
        pieces = response.iter_bytes()
        await anext(pieces)
        first = asyncio.create_task(anext(pieces))
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="read by another task"):
            await anext(response.iter_bytes())
        first.cancel()
        await asyncio.wait([first])


@pytest.mark.usefixtures("either_parser")
async def test_a_switch_of_protocols_that_nobody_asked_for(start: Start) -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    wires: list[list[Any]] = [[upgrade, HOLD], [upgrade + b"x" * 100, HOLD]]
    for wire in wires:
        server, client = await start(
            reply_writes(wire), max_retries=2, limits=Limits(error_body_seconds=0.05)
        )
        with pytest.raises(APIError) as caught:
            await create_completion(client)
        assert (caught.value.status_code, len(server.requests)) in {(101, 1), (None, 1)}
        await server.wait_closed_connections()


@pytest.mark.usefixtures("virtual_time")
async def test_a_malformed_body_in_the_callers_own_session() -> None:
    """There aiohttp leaves the reader waiting for ever; it is found out within about two seconds."""
    begun = reply_sse(chunk("tok")).steps[:2]
    async with (
        serve(reply_writes([*begun, 0.02, b"zz\r\n", HOLD])) as server,
        aiohttp.ClientSession() as session,
    ):
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        stream = await open_stream(client)
        began = time.monotonic()
        with pytest.raises(StreamInterruptedError) as caught:
            await stream.completion()
        assert time.monotonic() - began < 2.5
        partial = caught.value.partial
        assert partial is not None
        assert partial.choices[0].message.content == "tok"


async def test_a_limit_that_has_run_out_is_not_moved() -> None:
    """The cancellation is on its way, and a timeout that has expired refuses to be told otherwise."""
    call: Any = SimpleNamespace(timeout=Timeout(), stream=True, limits=Limits())
    timer = DeadlineTimer(asyncio.get_running_loop())
    watch = AttemptProgress(call, None, timer)
    moved: list[float | None] = []
    scope: Any = SimpleNamespace(expired=lambda: True, reschedule=moved.append)
    watch.scope = scope
    watch.sending()
    assert watch.check(math.inf) is None
    assert (moved, watch.phase) == ([], "response")


async def test_a_connection_made_just_after_its_limit_is_told_as_that_limit(start: Start) -> None:
    """The event loop was blocked for so long that both were found at once."""
    server, client = await start(timeout=Timeout(connect=0.05))
    connected = AttemptProgress.connected

    def connected_late(progress: AttemptProgress) -> None:
        time.sleep(0.06)
        progress.check(asyncio.get_running_loop().time())  # as the timer does
        connected(progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttemptProgress, "connected", connected_late)
        with pytest.raises(
            APITimeoutError, match=r"no connection to .* within 0\.05 s \(Timeout\.connect\)"
        ) as caught:
            await create_completion(client)
    assert ("connect", False, 0) == (caught.value.phase, caught.value.ambiguous, len(server.requests))


async def test_the_callers_own_session_has_none_of_it() -> None:
    """Its connections are aiohttp's own: interim responses are bounded by time alone."""
    reply = reply_writes([EARLY_HINTS * 30 + reply_json(whole("ok")).data])
    async with serve(reply, reply_writes([HOLD])) as server, aiohttp.ClientSession() as session:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        assert (await create_completion(client, messages=MESSAGES)).choices


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("gap", [0.0, 0.02])
@pytest.mark.parametrize("extra", [reply_json(whole("stray")).data, head(200)[:-2], b"\r\n", b"junk"])
async def test_a_reply_that_nobody_asked_for_is_not_taken_for_the_next(
    start: Start, extra: bytes, gap: float
) -> None:
    """Neither as a whole nor in part: the connection it came over is not used again."""
    server, client = await start(
        reply_writes([reply_json(whole("first")).data, gap, extra]), reply_json(whole("second"))
    )
    first = await create_completion(client)
    await server.wait_closed_connections()
    second = await create_completion(client)
    assert ["first", "second"] == [answer.choices[0].message.content for answer in (first, second)]
    assert server.connections == 2


async def test_each_call_of_a_trusted_environment_has_the_key(start: Start) -> None:
    """Its headers are prepared once, and the key is taken out of them for aiohttp's ``.netrc``."""
    server, client = await start(trust_env=True)
    for _ in range(3):
        await create_completion(client)
    keys = {request.headers.get("authorization") for request in server.requests}
    assert (3, {"Bearer model-key-0123"}) == (len(server.requests), keys)
