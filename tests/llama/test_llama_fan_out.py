"""n choices of a real model server, by one request and by several: the same shape of result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import pytest

from gradient_async import AsyncGradient

LlamaServer = Callable[..., str]
CALL: dict[str, Any] = {
    "model": "tiny-chat",
    "messages": [{"role": "user", "content": "Say hello"}],
    "temperature": 1.0,
}


@pytest.fixture
async def client(llama: LlamaServer) -> AsyncIterator[AsyncGradient]:
    async with AsyncGradient(inference_endpoint=llama(), model_access_key="any", timeout=60) as client:
        yield client


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "awaited"])
@pytest.mark.parametrize(("native", "requests"), [(False, 3), (True, 1), ("auto", 1)])
async def test_three_choices(
    client: AsyncGradient, native: bool | Literal["auto"], requests: int, stream: bool
) -> None:
    async with client.chat.completions.fan_out(n=3, native=native, stream=stream, **CALL) as fan:
        seen = {choice.index async for chunk in fan for choice in chunk.choices}
        completion = await fan.completion()
    assert {0, 1, 2} == seen
    assert [0, 1, 2] == [choice.index for choice in completion.choices]
    assert ["stop"] * 3 == [choice.finish_reason for choice in completion.choices]
    assert ["assistant"] * 3 == [choice.message.role for choice in completion.choices]
    assert all(choice.message.content for choice in completion.choices)
    assert ["completed"] * 3 == [result.state for result in fan.results]
    assert all(result.id for result in fan.results)
    assert completion.usage is not None
    assert completion.usage.completion_tokens >= 3
    assert requests == fan.attempts


async def test_many_prompts(client: AsyncGradient) -> None:
    prompts = ["Say hello", "Count to ten", "Say hello", "Count to ten", "Say hello"]
    requests = [(prompt, {"messages": [{"role": "user", "content": prompt}]}) for prompt in prompts]
    found = {
        result.index: (result.key, result.unwrap().choices[0].finish_reason)
        async for result in client.chat.completions.map(requests, model="tiny-chat", temperature=0)
    }
    assert {index: (prompt, "stop") for index, prompt in enumerate(prompts)} == found
