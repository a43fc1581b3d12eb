"""Pages of this machine may read replies, and people see at `/` what the server is."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from html import unescape
from pathlib import Path

import pytest
from peer import USER, ask, connect

from gradient_async.testing import chunk, reply_sse, serve
from gradient_async.testing.browser import usage

BODY = {"model": "m", "messages": USER}
LOCAL = "http://localhost:3000"
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


def options(origin: str) -> bytes:
    """Ask as a browser asks before it sends the request of a page."""
    return (
        f"OPTIONS /v1/chat/completions HTTP/1.1\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"
        "Access-Control-Request-Headers: authorization,content-type\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    "origin",
    [
        LOCAL,
        "http://localhost",
        "https://LOCALHOST:1",
        "http://app.localhost:8000",
        "http://127.0.0.1:5173",
        "http://127.8.9.1",
        "http://[::1]:8080",
    ],
)
async def test_pages_of_this_machine(origin: str) -> None:
    """They may send requests and read every reply, refusals included."""
    async with serve(keys="right") as server, connect(server) as peer:
        await peer.send(options(origin))
        allowed = await peer.head()
        assert 204 == allowed[0]
        assert origin == allowed[1]["access-control-allow-origin"]
        assert "GET, POST" == allowed[1]["access-control-allow-methods"]
        assert "authorization,content-type" == allowed[1]["access-control-allow-headers"]
        for key in ("right", "wrong"):
            reply = await peer.ask(body=BODY, origin=origin, authorization=f"Bearer {key}")
            assert origin == reply.headers["access-control-allow-origin"]
            assert ("*", "origin") == (reply.headers["access-control-expose-headers"], reply.headers["vary"])


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://evil.example:80#localhost",
        "http://evillocalhost",
        "http://1270.0.1",
        "file://localhost",
    ],
)
async def test_other_pages(origin: str) -> None:
    """They get no permission, and their browsers then send nothing or hide the reply."""
    async with serve() as server, connect(server) as peer:
        await peer.send(options(origin))
        refused = await peer.answer()
        reply = await peer.ask(body=BODY, origin=origin)
        assert (405, 200) == (refused.status, reply.status)
        assert not [
            name for name in {**refused.headers, **reply.headers} if name.startswith("access-control")
        ]


async def test_requests_of_other_programs_are_answered_as_ever() -> None:
    async with serve() as server, connect(server) as peer:
        assert not [name for name in (await peer.ask(body=BODY)).headers if name.startswith("access-control")]
        await peer.send(b"OPTIONS /v1/models HTTP/1.1\r\n\r\n")
        assert 405 == (await peer.answer()).status
        await peer.send(f"OPTIONS /v1/models HTTP/1.1\r\nOrigin: {LOCAL}\r\n\r\n".encode())
        assert 405 == (await peer.answer()).status


async def test_pages_may_read_what_is_recorded_and_replayed(tmp_path: Path) -> None:
    """The permission is given to the page of today, and is no part of the recording."""
    async with serve(reply_sse(chunk("Hi", finish_reason="stop"))) as real:
        async with serve(upstream=real.url, record=tmp_path) as server, connect(server) as peer:
            recorded = await peer.ask(body=BODY, origin=LOCAL)
        async with serve(replay=tmp_path, speed=None) as server, connect(server) as peer:
            replayed = await peer.ask(body=BODY, origin="http://127.0.0.1:9")
            await peer.send(options(LOCAL))
            assert 204 == (await peer.head())[0]
    assert recorded.body == replayed.body
    assert LOCAL == recorded.headers["access-control-allow-origin"]
    assert "http://127.0.0.1:9" == replayed.headers["access-control-allow-origin"]
    assert "localhost" not in (tmp_path / "manifest.jsonl").read_text()


async def test_the_page_shows_how_to_use_the_server() -> None:
    async with serve(models=["error-429", "a<b"], keys="secret") as server:
        page = await ask(server, "/", accept=HTML, host=f"127.0.0.1:{server.port}")
        assert (200, "text/html; charset=utf-8") == (page.status, page.headers["content-type"])
        assert "script" not in page.headers["content-security-policy"]
        html = page.body.decode()
        assert "<h1>gradient-async serve</h1>" in html
        assert "It simulates a model" in html
        assert "a&lt;b" in html
        assert "secret" not in html
        code = [unescape(text) for text in re.findall("<pre>(.*?)</pre>", html, re.DOTALL)]
        assert len(code) == 4
        assert (
            f"curl -N {server.url}/v1/chat/completions \\\n  -H 'Authorization: Bearer YOUR_KEY' \\\n"
            in code[0]
        )
        assert f'AsyncGradient(inference_endpoint="{server.url}", model_access_key="YOUR_KEY")' in code[1]
        assert f"export GRADIENT_INFERENCE_ENDPOINT={server.url} " in code[2]
        assert all('"a<b"' in text for text in code[:2])
        assert "error-429\na<b" == code[3]


async def test_what_the_page_shows_works() -> None:
    """Each of its programs is answered as it stands."""
    async with serve() as server:
        ways = usage(server.url, "any", "simulated")
        runs = [[sys.executable, "-c", ways["Python"]]]
        line = ways["Command line"].replace(
            "gradient-async", f"{shlex.quote(sys.executable)} -m gradient_async"
        )
        runs += [["bash", "-c", line]] * (shutil.which("bash") is not None)
        runs += [["bash", "-c", ways["curl"]]] * (
            shutil.which("bash") is not None and shutil.which("curl") is not None
        )
        for run in runs:
            process = await asyncio.create_subprocess_exec(
                *run,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            output, _ = await process.communicate()
            assert (0, True) == (process.returncode, b"Hello" in output)
        assert len(runs) == len(server.requests)


async def test_the_page_as_text() -> None:
    """For curl."""
    async with serve() as server:
        page = await ask(server, "/", accept="*/*", host="[::1]:80")
        assert "text/plain; charset=utf-8" == page.headers["content-type"]
        text = page.body.decode()
        assert text.startswith("This is a server for tests.")
        assert "curl -N http://[::1]:80/v1/chat/completions" in text
        assert "Bearer any" in text


async def test_the_host_that_a_client_names_is_shown_as_text() -> None:
    async with serve() as server:
        page = await ask(server, "/", accept=HTML, host="<script>alert(1)</script>")
        assert b"<script>" not in page.body


async def test_a_browser_sees_the_page_of_a_recorder_and_other_clients_what_is_recorded(
    tmp_path: Path,
) -> None:
    async with serve() as real:
        async with serve(upstream=real.url, record=tmp_path) as server, connect(server) as peer:
            assert (
                b"passes requests on to 127.0.0.1, and records the replies"
                in (await peer.ask("/", accept=HTML)).body
            )
            assert 200 == (await peer.ask("/v1/models", accept="*/*")).status
        async with serve(upstream=real.url) as server:
            page = (await ask(server, "/", accept=HTML)).body
            assert b"passes requests on to 127.0.0.1." in page
            assert b"<h2>Models</h2>" not in page
        async with serve(replay=tmp_path) as server, connect(server) as peer:
            assert b"It replays recorded replies." in (await peer.ask("/", accept=HTML)).body
            assert b'"id":"simulated"' in (await peer.ask("/v1/models", accept="*/*")).body
        assert ["/v1/models"] == [request.path for request in real.requests]


async def test_models_by_name() -> None:
    async with serve() as server, connect(server) as peer:
        for path in (
            "/v1/models/openai%2Fgpt-oss-120b",
            "/v1/models/openai/gpt-oss-120b",
            "/models/openai/gpt-oss-120b",
        ):
            assert ("openai/gpt-oss-120b", "model") == (
                (model := (await peer.ask(path)).json)["id"],
                model["object"],
            )
        assert 405 == (await peer.ask("/v1/models/m", body={})).status
    async with serve(models=["a"]) as server, connect(server) as peer:
        assert "a" == (await peer.ask("/v1/models/a")).json["id"]
        unknown = await peer.ask("/v1/models/b")
        assert (404, "model_not_found") == (unknown.status, unknown.json["error"]["code"])


async def test_models_of_a_folder_of_streams(tmp_path: Path) -> None:
    (tmp_path / "one.sse").write_bytes(b"data: [DONE]\n\n")
    async with serve(replay=tmp_path) as server, connect(server) as peer:
        assert "one" == (await peer.ask("/v1/models/one")).json["id"]
        assert 404 == (await peer.ask("/v1/models/two")).status
