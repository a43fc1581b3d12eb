"""Programs for other clients do the same after they were moved over by docs/moving.md.

The programs in ``before`` are written for the other package, and run where it is installed. Those in
``after`` were ported with the guide alone.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gradient_async.testing import HOLD, chunk, reply_sse, reply_writes, serve

FOLDER = Path(__file__).parent
# What each program prints; ``...`` stands for anything.
PRINTED = {
    "gradient_script": """
        One, two, three.
        ['choices', 'created', 'id', 'model', 'object', 'usage']
        One|,| two|,| three|.|6
        req-000003
        stop
        One, two, three.
        slow down 429 1
    """,
    "gradient_many": """
        One, two, three.
        One, two.
        NotFoundError: ...this error 404 was asked for by the name of the model...
        too late
    """,
    "openai_demo": """
        ----- one answer
        One, two, three.
        req-000001
        ----- a stream
        One, two, three, four.
        ----- headers
        req-000003 application/json
        One, two.
        ----- a conversation
        ['user', 'assistant', 'user', 'assistant', 'user']
        ----- models
        simulated
        ...
    """,
    "openai_tools": """
        call: 0 weather {'place': 'Paris'}
        call: 1 weather {'place': 'Rome'}
        According to the tools: sunny in Paris; sunny in Rome. That should answer your question.
        done: 88
        stop
    """,
    "pydo_script": """
        simulated
        ...
        One, two, three.
        One, two. 4
        chat.completion
        404 True
    """,
}
# pydo sends its token over TLS only. The server on loopback has none.
WITHOUT_TLS = """
from azure.core.pipeline.policies import _authentication
_authentication._enforce_https = lambda request: None
"""


def needs_peer(name: str, state: str) -> None:
    package = name.partition("_")[0]
    if state == "before" and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def environment(url: str) -> dict[str, str]:
    """Where the programs find the server, by the variables of their client."""
    return {
        "GRADIENT_BASE_URL": f"{url}/v1",
        "GRADIENT_INFERENCE_ENDPOINT": url,
        "GRADIENT_MODEL_ACCESS_KEY": "model-key",
        "GRADIENT_AGENT_ACCESS_KEY": "agent-key",
        "OPENAI_API_KEY": "model-key",
        "OPENAI_BASE_URL": f"{url}/v1",
        "DIGITALOCEAN_TOKEN": "token",
    }


@pytest.mark.parametrize("state", ["before", "after"])
@pytest.mark.parametrize("name", PRINTED)
def test_program(name: str, state: str) -> None:
    needs_peer(name, state)
    source = (FOLDER / state / f"{name}.py").read_text("utf-8")
    if "import httpx" in source:
        pytest.importorskip("httpx")
    if state == "before" and name.startswith("pydo"):
        source = WITHOUT_TLS + source
    with serve() as server:
        done = subprocess.run(
            [sys.executable, "-c", source],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
            env={**os.environ, **environment(server.url)},
        )
    assert 0 == done.returncode, done.stderr
    expected = "\n".join(line.strip() for line in PRINTED[name].strip().splitlines())
    assert re.fullmatch(re.escape(expected).replace(r"\.\.\.", ".*"), done.stdout.strip(), re.DOTALL), (
        done.stdout
    )
    if state == "after":
        assert not re.search(r"(import|from) (gradient|openai|pydo)\b", source)


# The service

HALF = reply_sse(chunk("Half "), '{"error": {"message": "overloaded"}}')
UNENDING = reply_writes([*reply_sse(chunk("One, "), done=False).steps[:-1], HOLD])


@asynccontextmanager
async def service(state: str) -> AsyncGenerator[str]:
    """The service, run by uvicorn."""
    pytest.importorskip("fastapi")
    uvicorn: Any = pytest.importorskip("uvicorn")
    spec = importlib.util.spec_from_file_location("service", FOLDER / state / "openai_service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(module.app, log_level="warning"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        listening.close()


@pytest.mark.parametrize("state", ["before", "after"])
@pytest.mark.filterwarnings("default")
async def test_service(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, errors before and in a stream, and visitors who leave are handled alike."""
    needs_peer("openai_service", state)
    async with serve() as model:
        for name, value in environment(model.url).items():
            monkeypatch.setenv(name, value)
        async with service(state) as url, aiohttp.ClientSession() as browser:
            asked = {"messages": [{"role": "user", "content": "Count to three."}]}
            reply = await browser.post(f"{url}/chat", json=asked)
            texts = [
                json.loads(line.removeprefix("data: "))
                for line in (await reply.text()).splitlines()
                if line.startswith("data: ")
            ]
            assert "One, two, three." == "".join(event.get("text", "") for event in texts)

            reply = await browser.post(f"{url}/chat", json={**asked, "model": "error-429"})
            assert (429, "1") == (reply.status, reply.headers["retry-after"])
            reply = await browser.post(f"{url}/chat", json={**asked, "model": "error-404"})
            assert 502 == reply.status
            assert "asked for" in await reply.text()
            model.push(HALF)
            reply = await browser.post(f"{url}/chat", json=asked)
            text = await reply.text()
            assert "Half " in text
            assert "event: error" in text
            assert "overloaded" in text
            reply = await browser.get(f"{url}/healthz")
            assert "simulated" in (await reply.json())["models"]

            model.push(UNENDING)
            reply = await browser.post(f"{url}/chat", json=asked)
            assert b"One, " in await reply.content.readany()
            reply.close()
            await model.wait_closed_connections(0, timeout=5.0)
