"""Recordings, replayed byte for byte: those of the recorder, and folders of streams that others recorded."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
import uvloop
from peer import USER, Peer, connect, request_bytes
from recorded import BODY, Seen, manifest, see

from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Handler,
    Quota,
    chunk,
    completion,
    head,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)

A = b": hello\r\n\r\ndata: 1\n\ndata: \xff\r\rdata: [DONE]"
B = b"data: b\n\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    streams = tmp_path / "streams"
    streams.mkdir()
    (streams / "b.sse").write_bytes(B)
    (streams / "a.sse").write_bytes(A)
    (streams / "notes.txt").write_text("no recording")
    return streams


async def play(peer: Peer, model: object = None, body: object = None) -> list[bytes]:
    """Ask for a recording; return its HTTP chunks."""
    await peer.send(request_bytes(body={"model": model} if body is None else body))
    status, headers = await peer.head()
    assert (200, "text/event-stream") == (status, headers["content-type"])
    chunks: list[bytes] = []
    while data := await peer.chunk():
        chunks.append(data)
    return chunks


async def test_by_name(folder: Path) -> None:
    """The model picks the recording, by its name with or without the ending."""
    async with serve(replay=folder) as server, connect(server) as peer:
        for model in ("b", "b.sse"):
            assert [B] == await play(peer, model)


async def test_in_turn(folder: Path) -> None:
    """A request that names no recording, or is not JSON, plays the next recording, sorted by name."""
    async with serve(replay=folder) as server, connect(server) as peer:
        bodies: list[object] = [{"model": "x"}, {}, b"not JSON", [1]]
        assert [A, B, A, B] == [b"".join(await play(peer, body=body)) for body in bodies]


async def test_event_by_event(folder: Path) -> None:
    """Each write holds one event, whatever the line endings; an unfinished event is the last write."""
    async with serve(replay=str(folder)) as server, connect(server) as peer:
        assert [b": hello\r\n\r\n", b"data: 1\n\n", b"data: \xff\r\r", b"data: [DONE]"] == await play(
            peer, "a"
        )


async def test_write_size(folder: Path) -> None:
    """`write_size` sets the size of each write."""
    async with serve(replay=folder, write_size=16) as server, connect(server) as peer:
        assert [A[:16], A[16:32], A[32:]] == await play(peer, "a")


@pytest.mark.parametrize("beside", [True, False])
async def test_recorded_sizes(folder: Path, *, beside: bool) -> None:
    """A stream whose manifest has the sizes of its reads is written in pieces of these sizes."""
    lines = [
        {"file": "bodies/x.json"},
        {"file": "streams/a.sse", "recorded_read_sizes": [3, 5]},
        {"file": "streams/b.sse", "recorded_read_sizes": [4, 50]},
    ]
    manifest = (folder.parent if beside else folder) / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    async with serve(replay=folder) as server, connect(server) as peer:
        assert [A[:3], A[3:8], A[8:]] == await play(peer, "a")
        assert [B[:4], B[4:]] == await play(peer, "b")


async def test_sizes_of_a_body_that_was_edited(folder: Path) -> None:
    """Sizes of 0 make no write."""
    line = {"file": "a.sse", "recorded_read_sizes": [0, 3, 0]}
    (folder / "manifest.jsonl").write_text(json.dumps(line))
    async with serve(replay=folder) as server, connect(server) as peer:
        assert [A[:3], A[3:]] == await play(peer, "a")


async def test_delay(folder: Path) -> None:
    """`delay` keeps writes apart."""
    async with serve(replay=folder, write_size=1, delay=0.001) as server, connect(server) as peer:
        assert B == b"".join(await play(peer, "b"))


async def test_http10(folder: Path) -> None:
    """A client of HTTP/1.0 gets the stream without chunks, up to the close."""
    async with serve(replay=folder) as server, connect(server) as peer:
        await peer.send(request_bytes(body={"model": "b"}).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert B == (await peer.answer()).body


async def test_models_and_keys(folder: Path) -> None:
    """The list of models names the recordings; a wrong key is refused."""
    async with serve(replay=folder, keys="k") as server, connect(server) as peer:
        models = (await peer.ask("/v1/models", authorization="Bearer k")).json
        assert ["a", "b"] == [model["id"] for model in models["data"]]
        assert 401 == (await peer.ask(body={"model": "a", "messages": USER})).status


def test_nothing_to_replay(tmp_path: Path) -> None:
    """A folder without recordings raises an error that says what to do."""
    with pytest.raises(ValueError, match=r"has no \*\.sse file; give a folder of recorded streams"):
        serve(replay=tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        serve(replay=tmp_path / "none")


def test_bad_write_size(folder: Path) -> None:
    """An empty write size is refused."""
    with pytest.raises(ValueError, match="write_size=0"):
        serve(replay=folder, write_size=0)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"recorded_read_sizes": [1]}',
        '{"file": 1, "recorded_read_sizes": 1}',
        '{"v": 1}',
        '{"v": "1"}',
    ],
)
def test_bad_manifest(folder: Path, line: str) -> None:
    """A manifest that cannot be read raises an error that names the line."""
    (folder / "manifest.jsonl").write_text("{}\n" + line + "\n")
    with pytest.raises(ValueError, match=r"manifest\.jsonl, line 2: not an object"):
        serve(replay=folder)


# What the recorder has recorded.


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return tmp_path / "recorded"


async def record(folder: Path, *replies: Handler, bodies: list[Any] | None = None) -> list[Seen]:
    """Ask for each of some replies through the recorder."""
    bodies = [BODY] * len(replies) if bodies is None else bodies
    async with serve(*replies) as real, serve(upstream=real.url, record=folder) as server:
        return [await see(server, body) for body in bodies]


CHUNKED = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
EOF = head(200, {"content-type": "text/event-stream", "connection": "close"})
REPLIES: dict[str, Handler] = {
    "stream": reply_sse(chunk("Hel"), chunk("lo"), gap=0.01),
    "json": reply_json(completion()),
    "error": reply_json({"id": "too_many_requests"}, 429, {"retry-after": "7"}),
    "length": reply_writes([head(200, {"content-length": "9"}), b"data:", 0.02, b" a\n\n"]),
    "close": reply_writes([EOF, b"data: a\n\n", 0.02, b"data: b\n\n", CLOSE]),
    "cut": reply_writes([CHUNKED, http_chunk(A), 0.02, CLOSE]),
    "cut inside": reply_writes([CHUNKED, http_chunk(A)[:-5], 0.02, CLOSE]),
    "cut length": reply_writes([head(200, {"content-length": "9"}), b"data:", 0.02, CLOSE]),
    "reset": reply_writes([CHUNKED, http_chunk(A), 0.02, RESET]),
    "reset length": reply_writes([head(200, {"content-length": "9"}), b"data:", 0.02, RESET]),
    "nothing": reply_writes([CLOSE]),
    "reset at once": reply_writes([RESET]),
    "no content": reply_writes([head(204)]),
}


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("speed", [1.0, None])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_byte_for_byte(recorded: Path, name: str, speed: float | None, run: Any) -> None:
    """A replay has the status, the headers, the reads and the end of the reply, as often as it is asked for."""

    async def main() -> None:
        (original,) = await record(recorded, REPLIES[name])
        async with serve(replay=recorded, speed=speed) as server:
            for _ in range(3):
                seen = await see(server)
                assert (original.status, original.body, original.end) == (seen.status, seen.body, seen.end)
                assert original.headers == seen.headers
                if speed and name != "cut inside":  # without pauses the kernel may join writes
                    assert original.reads == seen.reads

    run(main())


async def test_stall(recorded: Path) -> None:
    """A recorded stall lasts until the client gives up, with and without pauses."""
    async with (
        serve(reply_writes([CHUNKED, http_chunk(A), HOLD]), reply_writes([HOLD])) as real,
        serve(upstream=real.url, record=recorded) as server,
    ):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await see(server)
    for speed in (1.0, None):
        async with serve(replay=recorded, speed=speed, strict=True) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes(body=BODY))
                await peer.head()
                assert A == await peer.chunk()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await peer.chunk()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await see(server)


def stretch(folder: Path, seconds: float) -> None:
    """Make every recorded pause longer than a test may take."""
    lines = manifest(folder)
    for line in lines:
        line["gaps"] = [seconds] * len(line["gaps"])
        line["first_byte"] = line["end_gap"] = seconds
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


async def test_speed(recorded: Path) -> None:
    """Pauses are those recorded, divided by `speed`; None makes none."""
    await record(
        recorded,
        reply_writes([0.2, CHUNKED, 0.2, http_chunk(b"a"), 0.2, http_chunk(b"b"), 0.2, http_chunk(b"")]),
    )
    speed: float | None
    for speed in (1.0, 2.0):
        async with serve(replay=recorded, speed=speed) as server:
            times = (await see(server)).times
        for number, time in enumerate(times, 1):
            assert 0.2 * number / speed - 0.05 < time
    stretch(recorded, 1000)
    for speed in (1e6, None):
        async with serve(replay=recorded, speed=speed) as server:
            assert [b"a", b"b"] == (await see(server)).reads


@pytest.mark.parametrize("speed", [0, -1, math.nan])
def test_bad_speed(folder: Path, speed: float) -> None:
    with pytest.raises(ValueError, match=r"speed=.*: give a number above 0, or None"):
        serve(replay=folder, speed=speed)


async def test_write_size_of_a_recording(recorded: Path) -> None:
    """`write_size` and `delay` take the place of what was recorded."""
    await record(recorded, reply_writes([CHUNKED, http_chunk(B), http_chunk(b"")]))
    stretch(recorded, 1000)
    async with serve(replay=recorded, write_size=4, delay=0.01) as server:
        seen = await see(server)
    assert [B[:4], B[4:8], B[8:]] == seen.reads


async def test_in_the_order_recorded(recorded: Path) -> None:
    """Equal requests get the replies in the order recorded, then the last again."""
    await record(recorded, *(reply_json(number) for number in range(3)))
    async with serve(replay=recorded) as server:
        assert [b"0", b"1", b"2", b"2", b"2"] == [(await see(server)).body for _ in range(5)]


async def test_matching(recorded: Path) -> None:
    """Each request gets the reply of the equal one, whatever the order of requests and of keys."""
    bodies = [{"model": "m", "n": number} for number in range(3)]
    await record(recorded, *map(reply_json, range(3)), bodies=bodies)
    async with serve(replay=recorded, strict=True) as server:
        for number in (2, 0, 1):
            assert str(number).encode() == (await see(server, {"n": float(number), "model": "m"})).body


async def test_ignore(recorded: Path) -> None:
    """`ignore` leaves fields out of the comparison, also with folders that were recorded without it."""
    await record(recorded, reply_json(1), bodies=[{"user": "a", "metadata": {"run": 1, "x": 1}}])
    async with serve(replay=recorded, ignore=("user", "metadata.run")) as server:
        assert b"1" == (await see(server, {"metadata": {"run": 2, "x": 1}})).body
    with pytest.raises(AssertionError, match=r"\$\.metadata\.x differs: 1 recorded, 2 asked"):
        async with serve(replay=recorded, ignore=("user", "metadata.run")) as server:
            assert 501 == (await see(server, {"user": "b", "metadata": {"x": 2}})).status


async def test_mismatch(recorded: Path) -> None:
    """A request that is not recorded gets 501 with the nearest recording; leaving the block lists all of them."""
    bodies = [{"model": "m", "messages": [{"content": "x"}, {"content": text}]} for text in "ac"]
    await record(recorded, reply_json(1), reply_json(2), bodies=bodies)
    asked = {"model": "m", "messages": [{"content": "x"}, {"content": "b"}]}
    nearest = "nearest is 0001.json: $.messages[1].content differs: 'a' recorded, 'b' asked"
    with pytest.raises(AssertionError) as caught:
        async with serve(replay=recorded) as server:
            seen = await see(server, asked)
            assert (501, "false") == (seen.status, seen.headers["x-should-retry"])
            error = json.loads(seen.body)["error"]
            assert ("not_recorded", True) == (error["code"], nearest in error["message"])
            await see(server, asked, "/v1/models")
            async with connect(server) as peer:
                await peer.send(b"HEAD / HTTP/1.1\r\n\r\n")
                assert 501 == (await peer.head())[0]
    message = str(caught.value)
    assert f"POST /v1/chat/completions is not recorded: {nearest}" in message
    assert "POST /v1/models is not recorded" in message
    assert "HEAD / is not recorded" in message


async def test_mismatch_is_noted(recorded: Path) -> None:
    """Where the block fails by itself, the mismatches are a note on its error."""
    await record(recorded, reply_json(1))
    with pytest.raises(KeyError) as caught:
        async with serve(replay=recorded) as server:
            await see(server, {})
            raise KeyError
    assert "is not recorded: nearest is 0001.json" in caught.value.__notes__[0]


def test_mismatch_in_a_thread(recorded: Path) -> None:
    """A server in a thread fails in the same way."""
    asyncio.run(record(recorded, reply_json(1)))
    with pytest.raises(AssertionError, match="is not recorded"), serve(replay=recorded) as server:
        asyncio.run(see(server, {}))


async def test_strict(recorded: Path) -> None:
    """Strict, a recording that is not asked for fails, and so does one that is asked for twice."""
    await record(recorded, reply_json(1), reply_json(2), reply_sse("a"), bodies=[BODY, BODY, {}])
    with pytest.raises(AssertionError, match=r"recordings that were not asked for: 0002\.json, 0003\.sse"):
        async with serve(replay=recorded, strict=True) as server:
            await see(server)
    with pytest.raises(AssertionError, match=r"0001\.json, 0002\.json were played already, and strict"):
        async with serve(replay=recorded, strict=True) as server:
            assert [200, 200, 200, 501] == [
                (await see(server, body)).status for body in (BODY, BODY, {}, BODY)
            ]
    async with serve(replay=recorded, strict=True) as server:
        for body in (BODY, {}, BODY):
            await see(server, body)


async def test_strict_streams(folder: Path) -> None:
    """Streams without requests are played once each."""
    async with serve(replay=folder, strict=True) as server, connect(server) as peer:
        assert [B, A] == [b"".join(await play(peer, model)) for model in ("b", "x")]
    with pytest.raises(AssertionError, match=r"a\.sse, b\.sse were played already"):
        async with serve(replay=folder, strict=True) as server, connect(server) as peer:
            for model in ("x", "x"):
                await play(peer, model)
            assert 501 == (await peer.ask(body={"model": "x"})).status
    with pytest.raises(AssertionError, match=r"b\.sse was played already"):
        async with serve(replay=folder, strict=True) as server, connect(server) as peer:
            await play(peer, "b")
            assert 501 == (await peer.ask(body={"model": "b"})).status


async def test_replay_and_record(recorded: Path) -> None:
    """Given both, what is known is replayed and the rest is passed on and recorded; so a folder fills once."""
    for known in (0, 2, 3):
        async with (
            serve(*map(reply_json, range(5))) as real,
            serve(upstream=real.url, replay=recorded, record=recorded) as server,
        ):
            for body in ({"n": 0}, {"n": 0}, {"n": known}):
                await see(server, body)
            assert (1 if known else 3) == len(real.requests)
    lines = manifest(recorded)
    assert [{"n": 0}, {"n": 0}, {"n": 0}, {"n": 2}, {"n": 3}] == [line["request"]["body"] for line in lines]


async def test_what_is_just_recorded_is_not_known(recorded: Path) -> None:
    """A refusal and the answer to the next try are both recorded, and replayed in this order."""
    busy, answer = reply_json({}, 429), reply_json(completion("Hello"))
    for number in range(2):
        async with (
            serve(busy, answer) as real,
            serve(upstream=real.url, replay=recorded, record=recorded) as server,
        ):
            assert [429, 200] == [(await see(server)).status for _ in range(2)]
            assert 2 - 2 * number == len(real.requests)
    async with serve(replay=recorded) as server:
        assert [429, 200] == [(await see(server)).status for _ in range(2)]


async def test_folder_of_streams_and_recordings(folder: Path) -> None:
    """A stream without a request is still picked by its name; no stream is played in turn beside recordings."""
    (folder / "manifest.jsonl").write_text('{"file": "a.sse", "recorded_read_sizes": [4]}\n')
    await record(folder, reply_sse("new"))
    assert "0001.sse" == manifest(folder)[1]["file"]
    async with serve(replay=folder) as server, connect(server) as peer:
        assert [A[:4], A[4:]] == await play(peer, "a")
        assert b"data: new\n\ndata: [DONE]\n\n" == b"".join(await play(peer, body=BODY))
    with pytest.raises(AssertionError, match="nearest is 0001"):
        async with serve(replay=folder) as server:
            await see(server, {"model": "x"})


async def test_manifest_beside(folder: Path) -> None:
    """The manifest beside a folder tells sizes; the requests in it belong to another folder."""
    await record(folder.parent, reply_sse("a"))
    async with serve(replay=folder) as server, connect(server) as peer:
        assert ["a", "b"] == [model["id"] for model in (await peer.ask("/v1/models")).json["data"]]


async def test_line_cut_by_a_crash(recorded: Path) -> None:
    """A line that is cut is ignored when it is the last."""
    await record(recorded, reply_json(1))
    line = (recorded / "manifest.jsonl").read_bytes()
    for cut in range(len(line)):
        (recorded / "manifest.jsonl").write_bytes(line + line[:cut])
        async with serve(replay=recorded) as server:
            pass
    async with serve(replay=recorded) as server:
        assert b"1" == (await see(server)).body


async def test_file_is_missing(recorded: Path) -> None:
    """A recording without its file is an error at the call."""
    await record(recorded, reply_json(1))
    (recorded / "0001.json").unlink()
    with pytest.raises(ValueError, match=r"lacks 0001\.json, which its manifest names"):
        serve(replay=recorded)


async def test_later_version(recorded: Path) -> None:
    """A manifest of a later version is refused."""
    await record(recorded, reply_json(1))
    text = (recorded / "manifest.jsonl").read_text()
    (recorded / "manifest.jsonl").write_text(text.replace('"v":1', '"v":2'))
    with pytest.raises(ValueError, match="line 1: written by a later version"):
        serve(replay=recorded)


async def test_edited_body(recorded: Path) -> None:
    """A recording may be edited by hand: the length follows."""
    await record(recorded, reply_json(1))
    (recorded / "0001.json").write_text('{"edited": true}')
    async with serve(replay=recorded) as server:
        assert b'{"edited": true}' == (await see(server)).body


async def test_quota(recorded: Path) -> None:
    """A quota is held for recordings, and its headers take the place of those recorded."""
    await record(recorded, reply_json(1, headers={"x-ratelimit-limit-requests": "99"}))
    async with serve(replay=recorded, rate_limit=Quota(requests=1, per_second=0.001)) as server:
        seen = [await see(server) for _ in range(2)]
    assert [(200, "1"), (429, "1")] == [
        (one.status, one.headers["x-ratelimit-limit-requests"]) for one in seen
    ]
