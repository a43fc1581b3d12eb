"""The annotated modules of this folder run as their types say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import typed_gradient
import typed_openai

from gradient_async.testing import serve

COUNTED = "One, two, three."


@pytest.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """URL of the simulated model."""
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "model-key")
    monkeypatch.setenv("GRADIENT_AGENT_ACCESS_KEY", "agent-key")
    async with serve() as server:
        yield f"{server.url}/v1"


async def test_gradient(url: str) -> None:
    """Arguments that are not given pass through functions that declare ``float | NotGiven``."""
    assert {
        "answer": COUNTED,
        "reasons": ["stop", "stop"],
        "cost": True,
        "data": "chat.completion",
        "pieces": COUNTED,
        "both": [COUNTED, COUNTED],
        "agent": COUNTED,
        "raw": (200, "application/json"),
        "given": 0.5,
        "errors": ["rate limit 1", "status 404 404"],
    } == await typed_gradient.everything(url)


async def test_openai(url: str) -> None:
    """Events, messages, streams, tools and errors have the declared types."""
    pieces = ["One", ",", " two", ",", " three", "."]
    seen = await typed_openai.everything(url)
    assert ["status 404 True", "rate limit 1"] == [
        error.partition(" req-")[0] for error in seen.pop("errors")
    ]
    assert {
        "answer": COUNTED,
        "tokens": 14,
        "texts": pieces,
        "streamed": COUNTED,
        "events": [*pieces, f"<{COUNTED}>"] * 2,
        "likeliest": "One",
        "final": COUNTED,
        "arguments": {0: '{"place":"Paris"}', 1: '{"place":"Rome"}'},
        "run": "According to the tools: sunny. That should answer your question.",
    } == seen


@pytest.mark.parametrize("module", [typed_gradient, typed_openai])
async def test_without_asyncio(module: Any, url: str) -> None:
    """The same types without asyncio."""
    assert COUNTED == await asyncio.to_thread(module.synchronously, url)
