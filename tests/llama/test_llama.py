"""Against a real model server: llama.cpp's, with a tiny model that knows a dozen dialogues by heart."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from gradient_async import AsyncGradient, AuthenticationError, BadRequestError, ChatCompletion

MODEL = "tiny-chat"
LlamaServer = Callable[..., str]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def ask(client: AsyncGradient, **params: Any) -> ChatCompletion:
    """Await a completion."""
    return cast("ChatCompletion", await client.chat.completions.create(**params))


@pytest.fixture
async def client(llama: LlamaServer) -> AsyncIterator[AsyncGradient]:
    async with AsyncGradient(inference_endpoint=llama(), model_access_key="any", timeout=60) as client:
        yield client


async def test_await(client: AsyncGradient) -> None:
    completion = await client.chat.completions.create(
        model=MODEL, messages=say("Count to ten"), temperature=0
    )
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.role, completion.model) == ("stop", "assistant", MODEL)
    assert "three" in (choice.message.content or "") or "3" in (choice.message.content or "")
    assert completion.usage is not None
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


async def test_stream_says_what_is_awaited_and_what_it_took(client: AsyncGradient) -> None:
    awaited = await client.chat.completions.create(model=MODEL, messages=say("Count to ten"), temperature=0)
    async with client.chat.completions.stream(
        model=MODEL, messages=say("Count to ten"), temperature=0
    ) as stream:
        pieces = [piece async for piece in stream.text]
        completion = await stream.completion()
    assert awaited.choices[0].message.content == "".join(pieces) == completion.choices[0].message.content
    assert len(pieces) > 5
    assert (stream.completed, stream.saw_done, stream.anomalies) == (True, True, 0)
    assert completion.usage is not None
    assert completion.usage.completion_tokens >= len(pieces)


async def test_characters_cut_across_tokens_come_whole(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(
        model=MODEL, messages=say("Emoji please"), temperature=0
    ) as stream:
        text = "".join([piece async for piece in stream.text])
    assert any(ord(character) > 0xFFFF for character in text)
    assert "\ufffd" not in text


async def test_log_probabilities(client: AsyncGradient) -> None:
    """One entry a token, five likeliest each, streamed as awaited."""
    params: dict[str, Any] = {
        "model": MODEL, "messages": say("Say hello"), "temperature": 0, "logprobs": True, "top_logprobs": 5
    }  # fmt: skip
    awaited = await ask(client, **params)
    async with client.chat.completions.stream(**params) as stream:
        streamed = await stream.completion()
    for completion in (awaited, streamed):
        choice = completion.choices[0]
        assert choice.logprobs is not None
        entries = choice.logprobs.content or []
        assert "".join(entry.token for entry in entries).strip() == (choice.message.content or "").strip()
        for entry in entries:
            assert entry.logprob <= 0
            assert len(entry.top_logprobs) == 5
            assert math.isclose(entry.logprob, entry.top_logprobs[0].logprob, abs_tol=1e-4)
            assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.001


async def test_three_choices_read_by_three_tasks(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(
        model=MODEL, messages=say("Say hello"), n=3, temperature=1.0, seed=7
    ) as stream:

        async def follow(index: int) -> str:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream.choice(index)])

        texts = await asyncio.gather(*(follow(index) for index in range(3)))
        completion = await stream.completion()
    assert all(texts)
    assert texts == [choice.message.content for choice in completion.choices]
    assert ["stop"] * 3 == [choice.finish_reason for choice in completion.choices]


@pytest.mark.parametrize("streamed", [False, True])
async def test_two_tools_at_once_and_the_turn_with_their_results(
    client: AsyncGradient, streamed: bool
) -> None:
    messages = say("Weather in Paris and Tokyo?")
    params: dict[str, Any] = {
        "model": MODEL, "messages": messages, "tools": TOOLS, "parallel_tool_calls": True, "temperature": 0
    }  # fmt: skip
    if streamed:
        async with client.chat.completions.stream(**params) as stream:
            completion = await stream.completion()
    else:
        completion = await ask(client, **params)
    message = completion.choices[0].message
    calls = message.tool_calls or []
    assert completion.choices[0].finish_reason == "tool_calls"
    assert [{"city": "Paris"}, {"city": "Tokyo"}] == [json.loads(call.function.arguments) for call in calls]
    assert len({call.id for call in calls}) == 2
    messages.append(message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"} for call in calls]
    answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, temperature=0)
    assert answer.choices[0].message.content


async def test_reasoning_comes_apart_from_the_answer(llama: LlamaServer) -> None:
    url = llama("tiny-chat-r.gguf")
    async with AsyncGradient(inference_endpoint=url, model_access_key="any", timeout=60) as client:
        awaited = await client.chat.completions.create(
            model=MODEL, messages=say("Think first"), temperature=0
        )
        async with client.chat.completions.stream(
            model=MODEL, messages=say("Think first"), temperature=0
        ) as stream:
            kinds = [event.type async for event in stream.events()]
            streamed = await stream.completion()
    message = awaited.choices[0].message
    assert message.reasoning_content
    assert message.content
    assert streamed.choices[0].message.reasoning_content == message.reasoning_content
    assert streamed.choices[0].message.content == message.content
    assert kinds.index("reasoning.delta") < kinds.index("content.delta")


async def test_stop_and_length(client: AsyncGradient) -> None:
    whole = await client.chat.completions.create(model=MODEL, messages=say("Tell me a story"), temperature=0)
    words = (whole.choices[0].message.content or "").split()
    cut = await client.chat.completions.create(
        model=MODEL, messages=say("Tell me a story"), temperature=0, stop=[words[5]]
    )
    assert words[5] not in (cut.choices[0].message.content or "")
    assert cut.choices[0].finish_reason == "stop"
    short = await client.chat.completions.create(
        model=MODEL, messages=say("Tell me a story"), temperature=0, max_tokens=4
    )
    assert short.choices[0].finish_reason == "length"


async def test_leaving_early_frees_the_slot(client: AsyncGradient) -> None:
    """More streams than slots, each left after its first words: the next is served all the same."""
    for _ in range(6):
        async with client.chat.completions.stream(model=MODEL, messages=say("Tell me a story")) as stream:
            assert await anext(stream.text)
    completion = await client.chat.completions.create(model=MODEL, messages=say("Say hello"), timeout=20)
    assert completion.choices[0].message.content


async def test_a_400_says_what_the_server_does_not_like(client: AsyncGradient) -> None:
    unchecked = client.with_options(validate=False)
    with pytest.raises(BadRequestError) as caught:
        await unchecked.chat.completions.create(
            model=MODEL, messages=say("x"), tools=TOOLS, logprobs=True, stream=True
        )
    assert (caught.value.status_code, caught.value.code) == (400, "400")
    assert caught.value.type is not None
    assert (await client.chat.completions.create(model=MODEL, messages=say("Say hello"))).choices


async def test_a_401_says_that_the_key_is_wrong(llama: LlamaServer) -> None:
    url = llama(key="sk-test-right")
    async with AsyncGradient(inference_endpoint=url, model_access_key="sk-test-wrong") as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.chat.completions.create(model=MODEL, messages=say("Say hello"))
    assert caught.value.status_code == 401
    assert "sk-test" not in str(caught.value)
    async with AsyncGradient(inference_endpoint=url, model_access_key="sk-test-right", timeout=60) as client:
        assert (await client.chat.completions.create(model=MODEL, messages=say("Say hello"))).choices


async def test_models(client: AsyncGradient) -> None:
    assert MODEL in [model.id async for model in client.models.list()]
