"""Recording: what reaches the client, and what is written of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvloop
from peer import USER, ask, connect, request_bytes
from recorded import BODY, manifest, see

from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Handler,
    Headers,
    Request,
    chunk,
    completion,
    head,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)
from gradient_async.testing.matching import Redaction
from gradient_async.testing.recorder import Take

KEY = "sk-do-v1-0123456789abcdefghij"
CHUNKED = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
EOF = head(200, {"content-type": "text/event-stream", "connection": "close"})
CERTIFICATE = Path(__file__).parents[1] / "session" / "localhost.pem"


def names(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def record(folder: Path, *replies: Handler, **headers: str) -> list[Any]:
    """Ask for each of some replies through the recorder."""
    async with serve(*replies) as real, serve(upstream=real.url, record=folder) as server:
        return [await see(server, **headers) for _ in replies]


async def test_passes_on(tmp_path: Path) -> None:
    """The server gets method, path, query, body and headers of the client, and the client its reply."""
    async with serve(reply_json({"a": 1}, 201, {"x-request-id": "r1", "retry-after": "3"})) as real:
        real_host = f"127.0.0.1:{real.port}"
        async with serve(upstream=real.url, record=tmp_path) as server:
            seen = await see(server, BODY, "/any/path?b=2&a=1", authorization=f"Bearer {KEY}", x_mine="1")
            # Any other path goes there too, and no key is asked for.
            assert 404 == (await ask(server, "/nowhere")).status
            assert 200 == (await ask(server, "/v1/models")).status
    assert (201, b'{"a":1}') == (seen.status, seen.body)
    assert {"x-request-id": "r1", "retry-after": "3"}.items() <= seen.headers.items()
    first, *others = real.requests
    assert ("POST", "/any/path?b=2&a=1", BODY) == (first.method, first.target, first.json)
    assert {
        "authorization": f"Bearer {KEY}",
        "x-mine": "1",
        "accept-encoding": "identity",
    }.items() <= first.headers.items()
    assert real_host == first.headers["host"]
    assert [("GET", "/nowhere"), ("GET", "/v1/models")] == [
        (request.method, request.path) for request in others
    ]


async def test_base_url(tmp_path: Path) -> None:
    """The path of the URL comes before that of the request; a version at its end is not repeated."""
    async with serve() as real:
        for path, asked in [
            ("", "/v1/models"),
            ("/", "/v1/models"),
            ("/v1", "/v1/models"),
            ("/v1/", "/v1/models"),
            ("/api/v1", "/api/v1/models"),
            ("/x", "/x/v1/models"),
        ]:
            async with serve(upstream=real.url + path, record=tmp_path) as server:
                await ask(server, "/v1/models")
            assert asked == real.requests[-1].path
        async with serve(upstream=f"{real.url}/v1") as server:
            await ask(server, "/health")
        assert "/v1/health" == real.requests[-1].path


async def test_without_a_folder() -> None:
    """Without `record` requests are passed on, and nothing is written."""
    async with serve(reply_json({"a": 1})) as real, serve(upstream=real.url) as server:
        assert b'{"a":1}' == (await see(server)).body


async def test_manifest(tmp_path: Path) -> None:
    """Each reply has a file with its raw body, and a line in the manifest when it ends."""
    folder = tmp_path / "new" / "folder"
    events = [chunk("Hel"), chunk("lo", finish_reason="stop")]
    async with (
        serve(reply_sse(*events, gap=0.05, end_delay=0.05), reply_json(completion())) as real,
        serve(upstream=real.url, record=folder) as server,
    ):
        streamed = await see(server, BODY, "/v1/chat/completions?agent=true")
        assert ["0001.sse", "manifest.jsonl"] == names(folder)
        (line,) = manifest(folder)
        await see(server)
    assert {
        "v": 1,
        "file": "0001.sse",
        "upstream": "127.0.0.1",
        "response": {"status": 200, "headers": {"content-type": "text/event-stream"}, "chunked": True},
        "recorded_read_sizes": [len(read) for read in streamed.reads],
        "end": "eof",
    }.items() <= line.items()
    assert {"method": "POST", "path": "/v1/chat/completions", "query": "agent=true", "body": BODY} == {
        name: value for name, value in line["request"].items() if name != "digest"
    }
    assert line["at"].endswith("+00:00")
    assert streamed.body == (folder / "0001.sse").read_bytes()
    assert (0 <= line["first_byte"] < 5, 3, True) == (True, len(line["gaps"]), line["gaps"][1] > 0.03)
    assert line["end_gap"] > 0.03
    second = manifest(folder)[1]
    data = (folder / "0002.json").read_bytes()
    assert completion() == json.loads(data)
    assert ("0002.json", str(len(data)), False) == (
        second["file"],
        second["response"]["headers"]["content-length"],
        second["response"]["chunked"],
    )


@pytest.mark.parametrize(
    ("steps", "end", "body"),
    [
        ([CHUNKED, http_chunk(b"data: a\n\n"), http_chunk(b"")], "eof", b"data: a\n\n"),
        ([CHUNKED, b"9\r\n", 0.05, b"data: a\n\n\r\n", 0.05, b"0\r\n\r\n"], "eof", b"data: a\n\n"),
        ([CHUNKED, http_chunk(b"data: a\n\n"), CLOSE], "cut", b"data: a\n\n"),
        ([CHUNKED, http_chunk(b"data: a\n\n")[:-9], CLOSE], "cut", b"da"),
        ([CHUNKED, http_chunk(b"data: a\n\n"), b"no size\r\n", 0.1, HOLD], "cut", b"data: a\n\n"),
        ([CHUNKED, http_chunk(b"data: a\n\n"), 0.05, RESET], "reset", b"data: a\n\n"),
        ([EOF, b"data: a\n\n", CLOSE], "eof", b"data: a\n\n"),
        ([EOF, b"data: a\n\n", 0.05, RESET], "reset", b"data: a\n\n"),
        ([head(200, {"content-length": "9"}), b"data: a", CLOSE], "cut", b"data: a"),
        ([head(200, {"content-length": "9"}), b"data: a", 0.05, RESET], "reset", b"data: a"),
        ([head(100), head(200, {"content-length": "2"}), b"ab"], "eof", b"ab"),
        ([head(200, {"content-length": "0"})], "eof", b""),
        ([head(204)], "eof", b""),
        ([CLOSE], "cut", b""),
        ([0.02, RESET], "reset", b""),
        ([b"HTTP/1.1 200 OK\r\ncontent", CLOSE], "cut", b""),
        ([b"SSH-2.0\r\n\r\n", HOLD], "cut", b""),
    ],
)
async def test_ends(tmp_path: Path, steps: list[Any], end: str, body: bytes) -> None:
    """The client sees the end that the server made, and the recording has it."""
    (seen,) = await record(tmp_path, reply_writes(steps))
    (line,) = manifest(tmp_path)
    assert (body, end) == (seen.body, seen.end)
    assert (body, end) == ((tmp_path / line["file"]).read_bytes(), line["end"])
    assert (seen.status or None) == line["response"]["status"]


async def test_client_leaves(tmp_path: Path) -> None:
    """A client that gives up ends the request to the server at once; the recording has what came, and ``client``."""
    cases: list[tuple[list[Any], bytes]] = [
        ([CHUNKED, http_chunk(b"data: a\n\n"), HOLD], b"data: a\n\n"),
        ([HOLD], b""),
    ]
    for steps, body in cases:
        async with serve(reply_writes(steps)) as real, serve(upstream=real.url, record=tmp_path) as server:
            async with connect(server) as peer:
                await peer.send(request_bytes(body=BODY))
                await (peer.head() if body else real.wait_requests())
                if body:
                    assert body == await peer.chunk()
            await real.wait_closed_connections()
            await server.wait_closed_connections()
        line = manifest(tmp_path)[-1]
        assert ("client", body) == (line["end"], (tmp_path / line["file"]).read_bytes())


@pytest.mark.parametrize(
    ("text", "pause", "end"), [("[DONE]", 0.0, "eof"), ("[DONE]", 0.2, "client"), ("a", 0.0, "client")]
)
def test_client_leaves_at_done(
    tmp_path: Path, text: str, pause: float, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves at [DONE] has seen the whole stream, unless the server stalled behind it."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    take = Take(1, Redaction(Request("POST", "/", "1.1", Headers(()), b"", 1, 0.0)), "host")
    take.add(f"data: {text}\n\n".encode())
    now = pause
    assert end == take.finish("client").end


async def test_server_stops(tmp_path: Path) -> None:
    """A reply that is under way when the block is left is recorded as far as it came."""
    async with serve(reply_writes([CHUNKED, http_chunk(b"data: a\n\n"), HOLD])) as real:
        server = serve(upstream=real.url, record=tmp_path)
        async with server, connect(server) as peer:
            await peer.send(request_bytes(body=BODY))
            await peer.head()
            await peer.chunk()
            await server.stop()
        await real.wait_closed_connections()
    assert "client" == manifest(tmp_path)[0]["end"]


async def test_compression(tmp_path: Path) -> None:
    """Compressed bodies are passed on and recorded without compression; a coding that is not known stays."""
    packed = gzip.compress(b"data: a\n\n")
    seen = await record(
        tmp_path,
        reply_bytes(packed, headers={"content-encoding": "gzip"}),
        reply_bytes(b"\x00br", headers={"content-encoding": "br"}),
    )
    assert [b"data: a\n\n", b"\x00br"] == [one.body for one in seen]
    assert [None, "br"] == [one.headers.get("content-encoding") for one in seen]
    assert [b"data: a\n\n", b"\x00br"] == [
        (tmp_path / line["file"]).read_bytes() for line in manifest(tmp_path)
    ]


async def test_http10(tmp_path: Path) -> None:
    """A client of HTTP/1.0 gets a chunked reply up to the close."""
    async with (
        serve(reply_sse("a")) as real,
        serve(upstream=real.url, record=tmp_path) as server,
        connect(server) as peer,
    ):
        await peer.send(request_bytes(body=BODY).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"data: a\n\ndata: [DONE]\n\n" == (await peer.answer()).body


async def test_head(tmp_path: Path) -> None:
    """A reply to HEAD has no body."""
    async with (
        serve(reply_writes([head(200, {"content-length": "5"})])) as real,
        serve(upstream=real.url, record=tmp_path) as server,
        connect(server) as peer,
    ):
        await peer.send(b"HEAD /x HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (200, "5") == ((found := await peer.head())[0], found[1]["content-length"])
    async with serve(replay=tmp_path, strict=True) as server, connect(server) as peer:
        await peer.send(b"HEAD /x HTTP/1.1\r\nhost: x\r\n\r\n")
        assert "5" == (await peer.head())[1]["content-length"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_tls(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may speak TLS; its certificate is checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply_sse("a").data)
            await reader.read()
        finally:
            writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as real:
            url = f"https://localhost:{real.sockets[0].getsockname()[1]}"
            monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
            async with serve(upstream=url, record=tmp_path) as server:
                assert b"data: a\n\ndata: [DONE]\n\n" == (await see(server)).body
            monkeypatch.delenv("SSL_CERT_FILE")
            with pytest.raises(OSError, match=r"cannot be reached.*certificate"):
                async with serve(upstream=url, record=tmp_path) as server:
                    assert 500 == (await see(server)).status

    run(main())
    assert ["localhost"] == [line["upstream"] for line in manifest(tmp_path)]


async def test_no_server(tmp_path: Path) -> None:
    """A server that cannot be reached is an error at the client and at the end, and nothing is recorded."""
    async with serve() as gone:
        url = gone.url
    with pytest.raises(OSError, match=r"upstream 127\.0\.0\.1:\d+ cannot be reached"):
        async with serve(upstream=url, record=tmp_path) as server:
            answer = await ask(server, body=BODY)
            assert (500, True) == (answer.status, "cannot be reached" in answer.json["message"])
    assert [] == names(tmp_path)


async def test_no_key_in_any_file(tmp_path: Path) -> None:
    """Keys in headers, query and bodies, whole or split over reads, and cookies, are in no file."""
    others = ["sk-proj-abcdefghijklmnop", "dop_v1_0123456789abcdef", "hunter2hunter2"]
    echo = f"data: key {KEY}; {'; '.join(others)}\n\n".encode()
    writes = [http_chunk(echo[at : at + 7]) for at in range(0, len(echo), 7)]
    stream = reply_writes([CHUNKED, *(step for write in writes for step in (write, 0.002)), http_chunk(b"")])
    error = reply_json(
        {"message": f"wrong key {KEY}"},
        401,
        {"set-cookie": f"a={KEY}", "x-request-id": f"r-{KEY}", "x-other": KEY, "location": f"/{KEY}"},
    )
    body = {
        "messages": [{"role": "user", "content": f"{KEY} {others[0]}"}],
        "user": others[1],
        "api_key": others[2],
    }
    target = f"/v1/chat/completions?token={KEY}&x={others[0]}"
    keys = {"authorization": f"Bearer {KEY}", "cookie": f"a={KEY}"}
    async with serve(stream, error) as real, serve(upstream=real.url, record=tmp_path) as server:
        seen = await see(server, body, target, **keys)
        await see(server, body, target, **keys)
    assert KEY.encode() in seen.body  # the client gets what the server sent
    written = b"".join((tmp_path / name).read_bytes() for name in names(tmp_path))
    for key in (KEY, *others):
        assert key.encode() not in written
        assert key[:16].encode() not in written
    first, second = manifest(tmp_path)
    assert b"data: key ***; ***; ***; ***\n\n" == (tmp_path / "0001.sse").read_bytes()
    assert 30 == sum(first["recorded_read_sizes"])
    assert len(first["recorded_read_sizes"]) == len(first["gaps"])
    assert {"content-type": "application/json", "x-request-id": "r-***", "content-length": "27"} == second[
        "response"
    ]["headers"]
    assert b'{"message":"wrong key ***"}' == (tmp_path / "0002.json").read_bytes()
    # The same request with another key gets the recording.
    body["messages"] = [{"role": "user", "content": f"another-key-01234 {others[0]}"}]
    async with serve(replay=tmp_path) as server:
        seen = await see(
            server,
            body,
            f"/v1/chat/completions?token=k&x={others[0]}",
            authorization="Bearer another-key-01234",
        )
        assert 30 == len(seen.body)


async def test_headers_kept(tmp_path: Path) -> None:
    """Of the reply's headers those are kept that clients act on; the client gets the same while recording."""
    kept = {
        "content-type": "application/json", "retry-after": "1", "retry-after-ms": "5", "x-should-retry": "false",
        "x-ratelimit-remaining-requests": "3", "ratelimit-reset": "9", "x-request-id": "a", "apim-request-id": "b",
        "x-model-router-selected-route": "r",
    }  # fmt: skip
    left_out = {"set-cookie": "a=b", "server": "x", "date": "today", "x-account": "me"}
    (seen,) = await record(tmp_path, reply_json({}, 200, {**kept, **left_out}))
    (line,) = manifest(tmp_path)
    assert {**kept, "content-length": "2"} == line["response"]["headers"] == seen.headers


async def test_files_are_private(tmp_path: Path) -> None:
    """Files are readable by their owner only, also a manifest that was not."""
    (tmp_path / "manifest.jsonl").touch(0o644)
    await record(tmp_path, reply_sse("a"))
    assert [0o600, 0o600] == [(tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path)]


@pytest.mark.parametrize("name", ["manifest.jsonl", "0001.sse"])
async def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    """A link in the place of a file is not written through."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "other").write_text("kept\n")
    (folder / name).symlink_to(tmp_path / "other")
    if name == "manifest.jsonl":
        with pytest.raises(OSError, match="symbolic link"):
            await record(folder, reply_sse("a"))
    else:
        await record(folder, reply_sse("a"))
        assert "0002.sse" == manifest(folder)[0]["file"]
    assert "kept\n" == (tmp_path / "other").read_text()


async def test_numbers_go_on(tmp_path: Path) -> None:
    """A folder is added to; what another recorder writes at the same time is kept."""
    (tmp_path / "notes.txt").touch()
    await record(tmp_path, reply_json({}), reply_bytes(b"<p>", content_type="text/html"))
    async with (
        serve(reply_sse("a"), reply_sse("b")) as real,
        serve(upstream=real.url, record=tmp_path) as one,
        serve(upstream=real.url, record=tmp_path) as other,
    ):
        await see(one)
        await see(other)
    assert ["0001.json", "0002.txt", "0003.sse", "0004.sse"] == [line["file"] for line in manifest(tmp_path)]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_many_at_once(tmp_path: Path, run: Any) -> None:
    """Requests at the same time are recorded and replayed each by itself."""

    async def main() -> None:
        bodies = [
            {"model": "m", "messages": [{"role": "user", "content": f"Say: {n}"}], "stream": True}
            for n in range(50)
        ]
        async with serve(delay=0.001) as real, serve(upstream=real.url, record=tmp_path) as server:
            recorded = await asyncio.gather(*(see(server, body) for body in bodies))
        async with serve(replay=tmp_path, strict=True, speed=None) as server:
            replayed = await asyncio.gather(*(see(server, body) for body in bodies))
        assert [one.body for one in recorded] == [one.body for one in replayed]
        assert 50 == len({one.body for one in replayed})

    run(main())


async def test_after_a_crash(tmp_path: Path) -> None:
    """A line that a crash has cut makes room for the next; a whole line without its line break stays."""
    whole = json.dumps({"file": "x.sse", "recorded_read_sizes": [1]})
    for before, kept in [(f"{whole}\n{whole[:20]}", 1), (whole[:20], 0), (whole, 1), ("", 0)]:
        (tmp_path / "manifest.jsonl").write_text(before)
        await record(tmp_path, reply_json({}))
        assert kept + 1 == len(manifest(tmp_path))


def test_bad_options(tmp_path: Path) -> None:
    """Options that do not go together are refused at the call."""
    with pytest.raises(ValueError, match="record: the replies of which server"):
        serve(record=tmp_path)
    options: dict[str, Any]
    for options in ({"upstream": "http://x"}, {"replay": tmp_path}):
        with pytest.raises(ValueError, match="handler= answers every request"):
            serve(handler=reply_json({}), **options)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        serve(upstream="http://x", record=tmp_path / "file")


async def test_keys_and_latency(tmp_path: Path) -> None:
    """`keys` are asked for before a request is passed on."""
    async with serve() as real, serve(upstream=real.url, record=tmp_path, keys="right") as server:
        assert 401 == (await see(server, authorization="Bearer wrong")).status
        assert 200 == (await see(server, authorization="Bearer right")).status
        assert 1 == len(real.requests)


async def test_headers_of_the_connection(tmp_path: Path) -> None:
    """What concerns the client's connection is not passed on."""
    async with serve(reply_json({})) as real, serve(upstream=real.url, record=tmp_path) as server:
        await ask(
            server,
            body={"messages": USER},
            connection="close, x-hop",
            x_hop="1",
            te="trailers",
            accept_encoding="br",
        )
    headers = real.requests[0].headers
    assert ("close", "identity") == (headers["connection"], headers["accept-encoding"])
    assert not {"x-hop", "te"} & set(headers)
