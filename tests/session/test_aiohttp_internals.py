"""Small requests, which are written in one piece over connections of our own, are those that aiohttp would send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses
from client_calls import Start, create_completion, open_stream

from gradient_async import (
    APIConnectionError,
    APITimeoutError,
    AsyncGradient,
    BadRequestError,
    Limits,
    Timeout,
)
from gradient_async.session import aiohttp_internals
from gradient_async.session.aiohttp_internals import Connector, RequestHead, join_chunks
from gradient_async.session.connector import Connector as PublicConnector
from gradient_async.session.deadlines import AttemptProgress, DeadlineTimer
from gradient_async.testing import HOLD, Connection, Server, reply_json, reply_writes, serve
from gradient_async.testing import completion as whole

ANSWER = whole("ok")


async def connector_of(client: AsyncGradient) -> Connector:
    connector = (await client._core.connections.manager.pool.session()).connector
    assert isinstance(connector, Connector)
    return connector


def sent(server: Server) -> list[Any]:
    """What was asked, but for the order of headers."""
    return [(r.method, r.target, r.version, sorted(r.headers.items()), r.body) for r in server.requests]


@pytest.mark.usefixtures("needs_internals")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"default_query": {"a": "ä b", "c": 1}},
        {"default_headers": {"X-Name": "Jürgen", "Authorization": "Basic abc", "user-agent": "me"}},
        {"default_headers": {"Connection": "close"}},
        {"default_headers": {"Content-Encoding": "identity"}},
    ],
)
async def test_the_same_request_as_aiohttps_own(start: Start, options: dict[str, Any]) -> None:
    """Line, headers and body, whatever is set."""
    server, client = await start(**options)
    connector = await connector_of(client)
    for direct_ in (True, False):
        connector.direct = direct_
        await create_completion(client, max_tokens=3)
        await (await open_stream(client, extra_headers={"X-More": "1"})).completion()
    requests = sent(server)
    assert requests[:2] == requests[2:]


async def test_with_the_switch_off_a_session_has_the_public_connector(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls work, through what aiohttp documents."""
    monkeypatch.setattr(aiohttp_internals, "enabled", False)
    server, client = await start()
    assert (await create_completion(client)).choices[0].message.content
    session = await client._core.connections.manager.pool.session()
    assert type(session.connector) is PublicConnector
    assert 1 == len(server.requests)


async def test_the_alarm_is_off_while_an_errors_body_is_read(start: Start) -> None:
    """Which takes longer than the reply's head was allowed to."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    slow = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 100\r\n\r\n{"
    server, client = await start(
        reply_writes([slow, HOLD]),
        timeout=Timeout(response=0.1),
        limits=Limits(error_body_seconds=0.3),
    )
    with pytest.raises(BadRequestError):
        await create_completion(client)
    assert [] == reported
    assert 1 == len(server.requests)


async def test_a_large_body_is_left_to_aiohttp(start: Start) -> None:
    """It waits for its transport, and goes out in pieces."""
    server, client = await start()
    text = "x" * 40_000
    for content in ("x", text):
        await create_completion(client, messages=[{"role": "user", "content": content}])
    assert [text.encode() in request.body for request in server.requests] == [False, True]
    assert server.connections == 1


@pytest.mark.usefixtures("needs_internals")
async def test_request_heads_are_kept_for_so_many_kinds_of_calls(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that is another one in each call does not fill the memory."""
    monkeypatch.setattr(aiohttp_internals, "_MAX_HEADS", 3)
    server, client = await start()
    for turn in range(8):
        await create_completion(client, extra_headers={"X-Turn": str(turn)})
    assert [str(turn) for turn in range(8)] == [request.headers["x-turn"] for request in server.requests]
    assert len((await connector_of(client))._heads) <= 3


@pytest.mark.usefixtures("needs_internals")
async def test_each_event_loop_has_its_own_request_head(start: Start) -> None:
    """The head of a call holds the loop it was made in; a client may serve several loops at once."""
    _, client = await start()

    async def made_here() -> bool:
        await create_completion(client)
        ((_, template),) = client._core._templates.items()
        head: RequestHead | None = template.call.prepared["head"]()
        return head is not None and head.loop is asyncio.get_running_loop()

    assert await made_here()
    assert await asyncio.to_thread(asyncio.run, made_here())
    assert await made_here()


async def test_a_mock_of_aiohttp_is_obeyed() -> None:
    """Who puts something in the place of aiohttp's way to send gets the requests."""

    def no_stream_writer(*args: Any, **kwargs: Any) -> aiohttp.ClientResponse:
        return aiohttp.ClientResponse(*args, **{"stream_writer": SimpleNamespace(output_size=0)} | kwargs)

    async with AsyncGradient(base_url="http://127.0.0.1:9/v1", model_access_key="k") as client:
        with aioresponses() as replies:
            mocked: Any = replies
            body = reply_json(ANSWER).data.partition(b"\r\n\r\n")[2]
            mocked.post("http://127.0.0.1:9/v1/chat/completions", body=body, response_class=no_stream_writer)
            assert (await create_completion(client)).choices[0].message.content == "ok"
        with pytest.raises(APIConnectionError, match="no connection"):
            await create_completion(client.with_options(max_retries=0))


async def test_an_instrument_of_aiohttp_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that add signals to every session hear of our requests too."""
    heard: list[str] = []
    config = aiohttp.TraceConfig()

    async def hear(_session: Any, _context: Any, params: aiohttp.TraceRequestStartParams) -> None:
        heard.append(params.method)

    config.on_request_start.append(hear)
    original = aiohttp.ClientSession.__init__

    def instrumented(session: aiohttp.ClientSession, *args: Any, **options: Any) -> None:
        original(session, *args, **options | {"trace_configs": [config]})

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", instrumented)
    async with (
        serve(reply_json(ANSWER)) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
    ):
        await create_completion(client)
    assert heard == ["POST"]


async def test_a_name_is_looked_up(start: Start) -> None:
    """And kept: the second connection needs no look-up."""
    server, client = await start(reply_writes([HOLD]))
    named = client.with_options(inference_endpoint=server.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(APITimeoutError):
        await create_completion(named, timeout=Timeout(response=0.1))
    assert (await create_completion(named)).choices
    assert server.connections == 2


@pytest.mark.parametrize("length", [1, 40_000])
async def test_a_connection_lost_at_accept(length: int) -> None:
    """Whoever writes the request, the loss is told in the same way."""

    async def accepted(connection: Connection) -> None:
        connection.close()

    async with (
        serve(on_accept=accepted) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
    ):
        with pytest.raises(APIConnectionError) as caught:
            await create_completion(client, messages=[{"role": "user", "content": "x" * length}])
    # The loss and the request may cross each other.
    assert (caught.value.phase, caught.value.ambiguous) in {("send", False), ("response", True)}
    assert (server.connections, len(server.requests)) == (1, 0)


def _fed(*chunks: bytes) -> tuple[Any, list[str]]:
    """A body of HTTP chunks, and what it tells its protocol."""
    told: list[str] = []
    protocol: Any = SimpleNamespace(
        pause_reading=lambda: told.append("pause"), resume_reading=lambda: told.append("resume")
    )
    content: Any = aiohttp.StreamReader(protocol, 8, loop=asyncio.get_running_loop())
    for chunk in chunks:
        content.begin_http_chunk_receiving()
        content.feed_data(chunk)
        content.end_http_chunk_receiving()
    return content, told


@pytest.mark.parametrize("chunks", [[], [b"abc"], [b"abc", b"d", b"ef"], [b"abcdefgh"] * 30])
async def test_http_chunks_are_read_together(chunks: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """As aiohttp would read them one by one, also what comes after them."""
    seen: list[Any] = []
    for enabled in (True, False):
        monkeypatch.setattr(aiohttp_internals, "enabled", enabled)
        content, told = _fed(*chunks)
        join_chunks(content)
        data = [content.read_nowait()]
        if chunks:
            content.end_http_chunk_receiving()  # as after an empty chunk
        content.feed_data(b"rest")
        join_chunks(content)
        data.append(content.read_nowait())
        seen.append(
            (data, content.total_bytes, content._size, content._cursor, content._buffer, told[:1], told[-1:])
        )
    assert [b"".join(chunks), b"rest"] == seen[0][0]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("enabled", [True, False])
async def test_http_chunks_are_read_in_one_step(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    """Not with the switch off: then nothing of aiohttp's own is touched."""
    monkeypatch.setattr(aiohttp_internals, "enabled", enabled)
    content, _ = _fed(*[b"x"] * 50)
    steps: list[int] = []
    step = aiohttp.StreamReader._read_nowait_chunk

    def counted(self: Any, size: int) -> bytes:
        steps.append(size)
        data: bytes = step(self, size)
        return data

    monkeypatch.setattr(aiohttp.StreamReader, "_read_nowait_chunk", counted)
    join_chunks(content)
    assert b"x" * 50 == content.read_nowait()
    assert [-1] * (1 if enabled else 50) == steps


async def test_a_reply_without_a_body_has_nothing_to_read() -> None:
    join_chunks(aiohttp.streams.EMPTY_PAYLOAD)
    assert b"" == aiohttp.streams.EMPTY_PAYLOAD.read_nowait()


@pytest.mark.usefixtures("needs_internals")
async def test_a_request_head_does_not_show_its_key(start: Start) -> None:
    _, client = await start()
    await create_completion(client)
    (head,) = (await connector_of(client))._heads.values()
    shown = [repr(head), *(repr(getattr(head, name)) for name in RequestHead.__slots__)]
    assert head.start.count(b"Bearer ") == 1
    assert not [text for text in shown if "Bearer" in text]


def idle(timer: DeadlineTimer) -> tuple[AttemptProgress, list[float]]:
    """Make a watch of nothing, and return where it notes when it was to end."""
    call: Any = SimpleNamespace(timeout=Timeout(), stream=False, limits=Limits())
    watch = AttemptProgress(call, None, timer)
    ended: list[float] = []
    scope: Any = SimpleNamespace(expired=lambda: bool(ended), reschedule=ended.append)
    watch.scope = scope
    return watch, ended


@pytest.mark.usefixtures("virtual_time")
async def test_what_is_due_is_ended_and_the_rest_goes_on() -> None:
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    watches, ends = zip(*(idle(timer) for _ in range(4)), strict=True)
    first, second, over, free = watches
    now = loop.time()
    second._until(now + 0.04)
    first._until(now + 0.02)  # earlier than what the timer was set for
    over._until(now + 0.01)
    over.over()
    free._until(now + 0.01)
    free._until(None)  # no limit any more
    await asyncio.sleep(0.1)
    assert ([now + 0.02], [now + 0.04], [], []) == ends
    first._until(now)
    await asyncio.sleep(0.01)
    assert ends[0] == [now + 0.02]  # the cancellation is on its way already


@pytest.mark.usefixtures("virtual_time")
async def test_a_limit_that_is_put_off_ends_later() -> None:
    """The timer that was set for it rings, and is set anew."""
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    watch, ended = idle(timer)
    now = loop.time()
    watch._until(now + 0.01)
    watch._until(now + 0.05)
    await asyncio.sleep(0.03)
    assert [] == ended
    await asyncio.sleep(0.05)
    assert [now + 0.05] == ended


async def test_calls_one_after_the_other_have_one_timer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set for the first of them; those after it cost nothing, and it does not wait for as long as they may take."""
    loop = asyncio.get_running_loop()
    _, client = await start()
    await create_completion(client)
    made: list[float] = []
    original = loop.call_at

    def counted(when: float, ring: Callable[..., None], *arguments: Any, **more: Any) -> asyncio.TimerHandle:
        if isinstance(getattr(ring, "__self__", None), DeadlineTimer):
            made.append(when)
        return original(when, ring, *arguments, **more)

    monkeypatch.setattr(loop, "call_at", counted)
    began = loop.time()
    for _ in range(10):
        await create_completion(client)
    assert len(made) <= 1 + (loop.time() - began)
    assert all(when <= loop.time() + 1 for when in made)


async def test_headers_changed_in_place_are_sent(start: Start) -> None:
    """What a client makes of its settings once is made anew when they change."""
    server, client = await start()
    await create_completion(client)
    client.default_headers["X-New"] = "1"
    await create_completion(client)
    await create_completion(client.with_options(model_access_key="other"))
    reported = [(r.headers.get("x-new"), r.headers["authorization"]) for r in server.requests]
    key = reported[0][1]
    assert reported == [(None, key), ("1", key), ("1", "Bearer other")]
