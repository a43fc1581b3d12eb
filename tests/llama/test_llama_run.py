"""Runs with a real model server: one call and two, streamed and awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec import Struct

from gradient_async import AsyncGradient, ToolRun
from gradient_async.testing import chunk, reply_sse, serve

MODEL = "tiny-chat"
LlamaServer = Callable[..., str]


@pytest.fixture
async def client(llama: LlamaServer) -> AsyncIterator[AsyncGradient]:
    async with AsyncGradient(inference_endpoint=llama(), model_access_key="any", timeout=60) as client:
        yield client


def get_weather(city: str) -> str:
    """Get the weather"""  # noqa: D415  # the words that the model knows by heart
    return f"18 degrees, sunny in {city}"


def begin(client: AsyncGradient, text: str, **options: Any) -> ToolRun[Any]:
    run: Any = client.chat.completions.run
    made: ToolRun[Any] = run(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        tools=[get_weather],
        temperature=0,
        **options,
    )
    return made


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "awaited"])
@pytest.mark.parametrize(
    ("text", "cities"),
    [("What is the weather in Paris?", ["Paris"]), ("Weather in Paris and Tokyo?", ["Paris", "Tokyo"])],
)
async def test_runs(client: AsyncGradient, text: str, cities: list[str], *, stream: bool) -> None:
    # The model knows few dialogues, so it may call the tool again: the first results are what counts.
    def enough(run: ToolRun[Any]) -> bool:
        return len(run.turns) == 3

    async with begin(client, text, stream=stream, stop_when=enough) as run:
        events = [event async for event in run]
    started = [event for event in events if event.type == "tool.started" and event.turn == 0]
    finished = [event for event in events if event.type == "tool.finished" and event.turn == 0]
    assert [{"city": city} for city in cities] == [event.arguments for event in started]
    assert {f"18 degrees, sunny in {city}" for city in cities} == {event.content for event in finished}
    assert 2 <= len(run.turns) <= 3
    assert [event.id for event in started] == [
        message["tool_call_id"] for message in run.messages[2 : 2 + len(cities)]
    ]
    assert run.usage is not None and run.usage.total_tokens > 0
    # The server takes the history as it is.
    answer = await client.chat.completions.create(
        model=MODEL, messages=[*run.messages, {"role": "user", "content": "Say hello"}], tools=[get_weather]
    )
    assert answer.choices


class Degrees(Struct):
    n: int


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "awaited"])
async def test_a_typed_run(client: AsyncGradient, *, stream: bool) -> None:
    """The server forces the schema, so the model answers at once."""
    run = begin(
        client, "What is the weather in Paris?", stream=stream, response_format=Degrees, max_tokens=100
    )
    values = [event.parsed async for event in run if event.type == "content.done"]
    done = await run.completion()
    assert [done.parsed] == values and isinstance(done.parsed, Degrees)


@pytest.mark.parametrize("arguments", ['{"city":"Pa', "", '["Paris"]'])
async def test_a_history_with_faulty_arguments(client: AsyncGradient, arguments: str) -> None:
    """The server refuses arguments that are no JSON in a history, and takes that of a run."""
    call = {"index": 0, "id": "a", "function": {"name": "get_weather", "arguments": arguments}}
    async with serve(
        reply_sse(chunk(tool_calls=[call]), chunk(finish_reason="tool_calls")),
        reply_sse(chunk("It is"), chunk(finish_reason="stop")),
    ) as other:
        first = client.with_options(inference_endpoint=other.url)
        run = begin(first, "What is the weather in Paris?")
        await run.completion()
    assert "Invalid arguments for get_weather" in run.messages[2]["content"]
    answer = await client.chat.completions.create(
        model=MODEL, messages=run.messages[:3], tools=[get_weather], max_tokens=20
    )
    assert answer.choices
