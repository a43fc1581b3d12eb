"""Code written for ``gradient``'s asynchronous client runs with the import changed, and nothing else.

Where that package is installed, the same text runs with it as well: both see the same.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any, cast

import pytest
from snippets import SNIPPETS

from gradient_async import AsyncGradient, ChatCompletion, Gradient
from gradient_async.config import VARIABLES
from gradient_async.testing import ThreadedServer, reply_json, serve

HAS_GRADIENT = importlib.util.find_spec("gradient") is not None
PACKAGES = [
    "gradient_async",
    pytest.param(
        "gradient",
        marks=[
            pytest.mark.skipif(not HAS_GRADIENT, reason="gradient is not installed"),
            pytest.mark.filterwarnings("default"),
        ],
    ),
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    """The simulated model, where both packages look for it."""
    for names in VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    with serve() as running:
        monkeypatch.setenv("GRADIENT_BASE_URL", f"{running.url}/v1")
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "model-key")
        monkeypatch.setenv("GRADIENT_AGENT_ACCESS_KEY", "agent-key")
        yield running


def run(source: str, **names: Any) -> dict[str, Any]:
    """Run a program, which may use ``await`` at its top level; return its names."""
    code = compile(source, "<snippet>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, names)  # noqa: S102  # a snippet of ours
        return names

    async def main() -> None:
        await eval(code, names)  # noqa: S307  # a snippet of ours

    asyncio.run(main())
    return names


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet(name: str, package: str, server: ThreadedServer) -> None:
    """The same text sees the same, whichever package it imports."""
    snippet = SNIPPETS[name]
    if "import httpx" in snippet.source:
        pytest.importorskip("httpx")
    names = run(snippet.source.replace("{package}", package), server=server)
    assert snippet.seen == names["seen"]
    for field, value in (snippet.sent or {}).items():
        assert value == server.requests[-1].json.get(field), field


REFERENCE_REPLY: dict[str, Any] = {
    "id": "id",
    "choices": [
        {
            "finish_reason": "stop",
            "index": 0,
            "logprobs": {
                part: [
                    {
                        "token": "token",
                        "bytes": [0],
                        "logprob": 0,
                        "top_logprobs": [{"token": "token", "bytes": [0], "logprob": 0}],
                    }
                ]
                for part in ("content", "refusal")
            },
            "message": {
                "content": "content",
                "refusal": "refusal",
                "role": "assistant",
                "tool_calls": [
                    {"id": "id", "function": {"arguments": "arguments", "name": "name"}, "type": "function"}
                ],
            },
        }
    ],
    "created": 0,
    "model": "model",
    "object": "chat.completion",
    "usage": {"completion_tokens": 0, "prompt_tokens": 0, "total_tokens": 0},
}


REFERENCE_EXAMPLE = """
from gradient_async import {name}

client = {used}(
    api_key="My API Key",
)
completion = {wait}client.chat.completions.create(
    messages=[{{
        "content": "string",
        "role": "system",
    }}],
    model="llama3-8b-instruct",
)
print(completion.id)
"""
EXAMPLES = {
    "as it stands": REFERENCE_EXAMPLE.format(name="Gradient as GradientAI", used="GradientAI", wait=""),
    "of the later name": REFERENCE_EXAMPLE.format(name="Gradient", used="Gradient", wait=""),
    "with await": REFERENCE_EXAMPLE.format(
        name="AsyncGradient as GradientAI", used="GradientAI", wait="await "
    ),
}


@pytest.fixture(params=list(EXAMPLES))
def reference_reply(
    request: pytest.FixtureRequest, server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> ChatCompletion:
    """What the published example gets and prints, with another import; the last one also with ``await``."""
    server.push(reply_json(REFERENCE_REPLY))
    names = run(EXAMPLES[request.param])
    assert "id\n" == capsys.readouterr().out
    client, completion = names["client"], names["completion"]
    if isinstance(client, Gradient):
        client.close()
    assert isinstance(completion, ChatCompletion)
    return completion


@pytest.mark.usefixtures("reference_reply")
def test_the_references_example(server: ThreadedServer) -> None:
    """The example sends what it says."""
    (request,) = server.requests
    assert "Bearer My API Key" == request.headers["authorization"]
    assert {
        "messages": [{"content": "string", "role": "system"}],
        "model": "llama3-8b-instruct",
    } == request.json


def test_the_references_reply_by_attribute(reference_reply: ChatCompletion) -> None:
    """Every field of the sample reply is an attribute of the same name with the same value."""
    seen = 0

    def compare(expected: Any, actual: Any, path: str) -> None:
        nonlocal seen
        if isinstance(expected, dict):
            for key, value in cast("dict[str, Any]", expected).items():
                compare(value, getattr(actual, key), f"{path}.{key}")
        elif isinstance(expected, list):
            entries = cast("list[Any]", expected)
            assert len(entries) == len(actual), path
            for index, value in enumerate(entries):
                compare(value, actual[index], f"{path}[{index}]")
        else:
            assert expected == actual, path
            seen += 1

    compare(REFERENCE_REPLY, reference_reply, "completion")
    assert 28 == seen


def test_the_references_reply_as_data(reference_reply: ChatCompletion) -> None:
    """``to_dict`` gives the sample reply back, no field more and none less."""
    assert REFERENCE_REPLY == reference_reply.to_dict()


async def test_endpoints_of_the_environment(server: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints of the environment, plain http included, which ``gradient`` can't do for agents."""
    monkeypatch.delenv("GRADIENT_BASE_URL")
    monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", server.url)
    monkeypatch.setenv("GRADIENT_AGENT_ENDPOINT", server.url)
    messages = [{"role": "user", "content": "Hi"}]
    async with AsyncGradient() as client:
        await client.chat.completions.create(messages=messages, model="m")
        await client.agents.chat.completions.create(messages=messages)
    assert ["/v1/chat/completions", "/api/v1/chat/completions?agent=true"] == [
        request.target for request in server.requests
    ]
    assert ["Bearer model-key", "Bearer agent-key"] == [
        request.headers["authorization"] for request in server.requests
    ]
