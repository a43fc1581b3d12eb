"""The services of docs/examples, over real HTTP: they stream, pick, and stop when the browser leaves."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gradient_async.testing import HOLD, Server, chunk, reply_json, reply_sse, reply_writes, serve

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
ANSWER = reply_sse(chunk("One, "), chunk("two."), chunk(finish_reason="stop"))
PROSE = reply_sse(chunk("It is 42."), chunk(finish_reason="stop"))
VALID = reply_sse(chunk('{"it": 42}'), chunk(finish_reason="stop"))
UNENDING = reply_writes([*reply_sse(chunk("One, "), done=False).steps[:-1], HOLD])


def load(name: str) -> ModuleType:
    """Import an example from its file."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def aiohttp_service() -> AsyncGenerator[str]:
    """The service on aiohttp."""
    runner = web.AppRunner(load("aiohttp_service").make_app(), handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fastapi_service() -> AsyncGenerator[str]:
    """The service on FastAPI, run by uvicorn."""
    pytest.importorskip("fastapi")
    uvicorn: Any = pytest.importorskip("uvicorn")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(load("fastapi_service").app, log_level="warning"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        listening.close()


@pytest.fixture(params=[aiohttp_service, fastapi_service], ids=["aiohttp", "fastapi"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "any")
    monkeypatch.delenv("GRADIENT_BASE_URL", raising=False)

    @asynccontextmanager
    async def start(*replies: Any) -> AsyncGenerator[tuple[Server, str]]:
        async with serve(*replies) as server:
            monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", server.url)
            async with request.param() as url:
                yield server, url

    return start


async def test_an_answer_is_streamed(service: Any) -> None:
    async with service(ANSWER) as (server, url), aiohttp.ClientSession() as browser:
        reply = await browser.post(f"{url}/ask", json={"question": "Count"})
        assert (200, "One, two.") == (reply.status, await reply.text())
        assert "Count" == server.requests[0].json["messages"][0]["content"]


@pytest.mark.parametrize("service", [aiohttp_service], indirect=True)
async def test_events_are_relayed_as_they_are(service: Any) -> None:
    async with service(ANSWER) as (_, url), aiohttp.ClientSession() as browser:
        reply = await browser.post(f"{url}/relay", json={"question": "Count"})
        assert (await reply.read()).endswith(b"data: [DONE]\n\n")


async def test_the_first_valid_answer_is_picked(service: Any) -> None:
    async with service(PROSE, VALID, UNENDING, UNENDING) as (server, url), aiohttp.ClientSession() as browser:
        reply = await browser.post(f"{url}/pick", json={"question": "JSON, please"})
        assert (200, {"answer": {"it": 42}}) == (reply.status, await reply.json())
        await server.wait_closed_connections(2)


async def test_no_valid_answer_is_said(service: Any) -> None:
    async with service(PROSE, PROSE, PROSE, PROSE) as (_, url), aiohttp.ClientSession() as browser:
        reply = await browser.post(f"{url}/pick", json={"question": "JSON, please"})
        assert 502 == reply.status
        assert "no answer was JSON" in await reply.text()


async def test_an_error_of_the_model_has_a_status(service: Any) -> None:
    refusal = reply_json({"message": "no such model"}, status=400)
    async with service(refusal) as (_, url), aiohttp.ClientSession() as browser:
        reply = await browser.post(f"{url}/ask", json={"question": "Count"})
        assert 502 == reply.status
        assert "no such model" in json.loads(await reply.read())["error"]


@pytest.mark.parametrize("path", ["ask", "pick"])
async def test_who_leaves_stops_the_model(service: Any, path: str) -> None:
    """The connections to the model are closed within a moment."""
    async with service(*[UNENDING] * 4) as (server, url), aiohttp.ClientSession() as browser:
        asking = asyncio.create_task(browser.post(f"{url}/{path}", json={"question": "Count"}))
        await server.wait_requests(1 if path == "ask" else 4, timeout=5.0)
        if path == "ask":
            reply = await asking
            assert b"One, " == await reply.content.readany()
            reply.close()
        else:
            asking.cancel()
        left = time.monotonic()
        await server.wait_closed_connections(timeout=5.0)
        assert time.monotonic() - left < 0.5
