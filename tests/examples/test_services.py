"""The services of docs/examples, over real HTTP: what they send to the page, what they refuse, and when they stop the model."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from example_services import KEY, SERVICES, example, point_at

from gradient_async import Timeout
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Connection,
    Request,
    Server,
    chunk,
    head,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)

TOKENS: list[dict[str, Any]] = [{"token": "One", "logprob": -0.1, "bytes": None, "top_logprobs": []}]
BEGIN = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
HALF = http_chunk(sse(chunk("Half of"), done=False))
SETUP = "This service is not set up correctly. Please tell its owner."
QUESTION = {"prompt": "Count", "n": 2}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start a model with a script, and a service in front of it; yield the model and a browser."""

    @asynccontextmanager
    async def start(*replies: Any, **options: Any) -> AsyncGenerator[tuple[Server, aiohttp.ClientSession]]:
        async with serve(*replies, **options) as model:
            point_at(monkeypatch, model.url)
            async with SERVICES[request.param]() as url, aiohttp.ClientSession(url) as browser:
                yield model, browser

    return start


def events_of(body: bytes) -> list[dict[str, Any]]:
    """Read an event stream as the page does."""
    lines = body.decode().split("\n\n")
    assert "" == lines.pop()
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_the_page_and_its_policy(service: Any) -> None:
    """Only the page's own script and style have the hashes in the policy."""
    async with service() as (_, browser):
        reply = await browser.get("/")
        page = await reply.text()
        assert (200, "text/html") == (reply.status, reply.content_type)
        policy = reply.headers["content-security-policy"]
        for tag in ("script", "style"):
            (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "nosniff" == reply.headers["x-content-type-options"]
        assert KEY not in page


async def test_the_events(service: Any) -> None:
    answers = reply_sse(
        chunk(reasoning_content="Hm."),
        chunk("One", logprobs={"content": TOKENS, "refusal": None}),
        chunk(refusal="No.", index=1),
        chunk(finish_reason="stop"),
        chunk(index=1, finish_reason="length"),
        chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}),
    )
    async with service(answers) as (model, browser):
        reply = await browser.post("/answers", json=QUESTION)
        assert [
            {"type": "reasoning", "answer": 0, "text": "Hm."},
            {"type": "text", "answer": 0, "text": "One"},
            {"type": "tokens", "answer": 0, "tokens": [["One", -0.1]]},
            {"type": "text", "answer": 1, "text": "No."},
            {"type": "end", "answer": 0, "reason": "stop"},
            {"type": "end", "answer": 1, "reason": "length"},
            {"type": "done", "tokens": 4},
        ] == events_of(await reply.read())
        assert (200, "text/event-stream") == (reply.status, reply.content_type)
        assert ("no-store", "no") == (reply.headers["cache-control"], reply.headers["x-accel-buffering"])
        sent = model.requests[0].json
        assert ([{"role": "user", "content": "Count"}], 2) == (sent["messages"], sent["n"])


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"n": 1}', "application/json"),
        (b'{"prompt": " \\n "}', "application/json"),
        (b'{"prompt": 5}', "application/json"),
        (json.dumps({"prompt": "x" * 4001}).encode(), "application/json"),
        (b'{"prompt": "Count", "n": 0}', "application/json"),
        (b'{"prompt": "Count", "n": 5}', "application/json"),
        (b'{"prompt": "Count", "n": "1"}', "application/json"),
        (json.dumps({"prompt": "Count", "more": "x" * 40_000}).encode(), "application/json"),
        (b'{"prompt": "Count"}', "text/plain"),  # what a page of another site may send
        (b"prompt=Count", "application/x-www-form-urlencoded"),
    ],
)
async def test_what_is_no_question(service: Any, body: bytes, content_type: str) -> None:
    async with service() as (model, browser):
        reply = await browser.post("/answers", data=body, headers={"content-type": content_type})
        assert 400 == reply.status
        refusal = await reply.json()
        assert ("error", False) == (refusal["type"], refusal["retry"])
        assert [] == model.requests


def refuse(status: int, code: str | None = None, **headers: str) -> Any:
    """Answer with an error that names a key, and that is not retried."""
    error = {"message": f"no such key {KEY}", "code": code}
    return reply_json({"error": error}, status, {"x-should-retry": "false", **headers})


@pytest.mark.parametrize(
    ("reply", "message", "retry"),
    [
        (refuse(400), "The model does not accept this question.", False),
        (refuse(401), SETUP, False),
        (refuse(402), SETUP, False),
        (refuse(403), SETUP, False),
        (refuse(404), SETUP, False),
        (refuse(302, location="https://elsewhere.example/"), SETUP, False),
        (refuse(413), "The model does not accept this question.", False),
        (refuse(429), "The model is busy. Please try again later.", True),
        (refuse(429, "insufficient_quota"), SETUP, False),
        (refuse(500), "The model failed.", True),
        (refuse(503), "The model is busy. Please try again later.", True),
        (reply_writes([CLOSE]), "The model can't be reached.", True),
        (reply_writes([HOLD]), "The model fell silent.", True),
        (reply_writes([BEGIN, HALF, HOLD]), "The model fell silent.", True),
        (reply_writes([BEGIN, HALF, 0.1, RESET]), "The answer broke off.", True),
        (reply_writes([BEGIN, HALF, http_chunk(b"")]), "The answer broke off.", True),
        (reply_sse('{"error": {"code": "overloaded"}}'), "The model is busy. Please try again later.", True),
        (reply_sse(f'{{"error": {{"message": "{KEY}"}}}}'), "The model failed.", True),
        (reply_sse("no JSON"), "The answer broke off.", True),
    ],
)
async def test_errors_say_what_a_visitor_may_know(
    service: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reply: Any,
    message: str,
    retry: bool,
) -> None:
    """The last event has no key, host, model or setting; the log has the library's message under the same id."""
    monkeypatch.setitem(example("chat").CLIENT, "timeout", Timeout(first_token=1, idle=1))
    async with service(reply) as (_, browser):
        answered = await browser.post("/answers", json=QUESTION)
        body = await answered.read()
        error = events_of(body)[-1]
        assert (200, "error", message, retry) == (
            answered.status,
            error["type"],
            error["message"],
            error["retry"],
        )
        for secret in (KEY, KEY[-6:], "127.0.0.1", "gpt", "GRADIENT", "elsewhere"):
            assert secret not in body.decode()
        (line,) = [record.getMessage() for record in caplog.records if record.name == "chat"]
        assert error["id"] in line and KEY not in line


async def test_the_wait_that_a_server_asks_for(service: Any) -> None:
    async with service(refuse(429, **{"retry-after": "99.5"})) as (_, browser):
        reply = await browser.post("/answers", json=QUESTION)
        assert 100 == events_of(await reply.read())[-1]["wait"]


@pytest.mark.parametrize("moment", ["before the headers", "before the first word", "in an answer"])
async def test_who_leaves_stops_the_model(service: Any, moment: str) -> None:
    """The connection to the model is closed, whatever the service waits for."""
    steps = {"before the headers": [], "before the first word": [BEGIN], "in an answer": [BEGIN, HALF]}[
        moment
    ]
    async with service(reply_writes([*steps, HOLD])) as (model, browser):
        reply = await browser.post("/answers", json=QUESTION)
        await model.wait_requests(timeout=10.0)
        if moment == "in an answer":
            assert b"Half of" in await reply.content.readany()
        reply.close()
        await model.wait_closed_connections(timeout=10.0)


async def test_a_slow_reader_slows_the_model(service: Any) -> None:
    """What the browser does not read stays with the model; when the browser leaves, the model stops."""
    sent = 0

    async def talk(request: Request, connection: Connection) -> None:
        nonlocal sent
        event = http_chunk(sse(chunk("word " * 4000), done=False))
        await connection.write(BEGIN)
        while sent < 256 * 1024 * 1024:
            await connection.write(event)
            sent += len(event)

    async with service(talk) as (model, browser):
        reply = await browser.post("/answers", json=QUESTION)
        before = -1
        while before < sent:
            before = sent
            await asyncio.sleep(0.5)
        assert 0 < sent < 64 * 1024 * 1024
        reply.close()
        await model.wait_closed_connections(timeout=10.0)


async def test_one_client_for_all_requests(service: Any) -> None:
    async with service(reply_sse(chunk("One.", finish_reason="stop")), repeat=True) as (model, browser):
        for _ in range(3):
            reply = await browser.post("/answers", json=QUESTION)
            assert {"type": "done", "tokens": 0} == events_of(await reply.read())[-1]
        assert (3, 1) == (len(model.requests), model.connections)


async def test_health_does_not_depend_on_the_model(service: Any) -> None:
    async with service() as (model, browser):
        reply = await browser.get("/health")
        assert (200, {"status": "ok"}) == (reply.status, await reply.json())
        assert [] == model.requests
