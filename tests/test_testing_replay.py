"""Recorded streams come back byte for byte, in the writes asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_testing_support import USER, Peer, connect, request_bytes

from gradient_async.testing import serve

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
    """Any other model, or a body that is none, plays them in turn, sorted by name."""
    async with serve(replay=folder) as server, connect(server) as peer:
        bodies: list[object] = [{"model": "x"}, {}, b"not JSON", [1]]
        assert [A, B, A, B] == [b"".join(await play(peer, body=body)) for body in bodies]


async def test_event_by_event(folder: Path) -> None:
    """One event a write, whatever its line endings, the unfinished one included."""
    async with serve(replay=str(folder)) as server, connect(server) as peer:
        assert [b": hello\r\n\r\n", b"data: 1\n\n", b"data: \xff\r\r", b"data: [DONE]"] == await play(
            peer, "a"
        )


async def test_write_size(folder: Path) -> None:
    """Writes of a size of one's own."""
    async with serve(replay=folder, write_size=16) as server, connect(server) as peer:
        assert [A[:16], A[16:32], A[32:]] == await play(peer, "a")


@pytest.mark.parametrize("beside", [True, False])
async def test_recorded_sizes(folder: Path, *, beside: bool) -> None:
    """Where a manifest tells how a stream was read when it was recorded, it is written like that."""
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


async def test_delay(folder: Path) -> None:
    """Writes can be spread over time."""
    async with serve(replay=folder, write_size=1, delay=0.001) as server, connect(server) as peer:
        assert B == b"".join(await play(peer, "b"))


async def test_http10(folder: Path) -> None:
    """A client of HTTP/1.0 gets the stream without chunks, up to the close."""
    async with serve(replay=folder) as server, connect(server) as peer:
        await peer.send(request_bytes(body={"model": "b"}).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert B == (await peer.answer()).body


async def test_models_and_keys(folder: Path) -> None:
    """The list of models has the recordings; keys are asked for as by the simulated model."""
    async with serve(replay=folder, keys="k") as server, connect(server) as peer:
        models = (await peer.ask("/v1/models", authorization="Bearer k")).json
        assert ["a", "b"] == [model["id"] for model in models["data"]]
        assert 401 == (await peer.ask(body={"model": "a", "messages": USER})).status


def test_nothing_to_replay(tmp_path: Path) -> None:
    """A folder without recordings is an error that says what to do."""
    with pytest.raises(ValueError, match=r"has no \*\.sse file; give a folder of recorded streams"):
        serve(replay=tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        serve(replay=tmp_path / "none")


def test_bad_write_size(folder: Path) -> None:
    """A write holds something."""
    with pytest.raises(ValueError, match="write_size=0"):
        serve(replay=folder, write_size=0)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"recorded_read_sizes": [1]}', '{"file": 1, "recorded_read_sizes": 1}']
)
def test_bad_manifest(folder: Path, line: str) -> None:
    """A manifest that cannot be read is an error that names the line."""
    (folder / "manifest.jsonl").write_text("{}\n" + line)
    with pytest.raises(ValueError, match=r"manifest\.jsonl, line 2: not an object"):
        serve(replay=folder)
