"""Never run: what the type checkers have to conclude about `Gradient`."""

from __future__ import annotations

from typing import Any, assert_type

from gradient_async import (
    Answer,
    ChatCompletion,
    ChatCompletionChunk,
    CompletionUsage,
    Gradient,
    MapResult,
    ModelInfo,
    ModelList,
    ParsedChatCompletion,
    ParsedChoice,
    Stream,
    Timeout,
    ToolRunEvent,
)
from gradient_async import Gradient as GradientAI
from gradient_async.events import ContentDeltaEvent
from gradient_async.sync import FanOut, MapResults, ParsedStream, ToolRun
from gradient_async.sync.streams import StreamManager


def completions(client: Gradient, *, maybe: bool) -> None:
    """The overloads of ``create``, by the value of ``stream``."""
    create = client.chat.completions.create
    done = create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert_type(done, ChatCompletion)
    stored = [{"role": "user", "content": "hi"}]
    assert_type(create(model="m", messages=[done.choices[0].message], stream=False), ChatCompletion)
    assert_type(create(model="m", messages=stored, stream=True, timeout=Timeout(idle=3)), Stream)
    assert_type(create(model="m", messages=stored, stream=maybe), ChatCompletion | Stream)
    agent = client.agents.chat.completions
    assert_type(agent.create(messages=stored, include_retrieval_info=True), ChatCompletion)
    assert_type(agent.create(messages=stored, stream=True), Stream)
    assert_type(agent.create(messages=stored, stream=maybe), ChatCompletion | Stream)


def answers(client: Gradient) -> None:
    """The type of an answer is inferred from ``response_format``."""
    stored = [{"role": "user", "content": "hi"}]
    parse = client.chat.completions.parse
    assert_type(parse(model="m", messages=stored, response_format=int), ParsedChatCompletion[int])
    assert_type(parse(model="m", messages=stored, response_format=Answer(int)), ParsedChatCompletion[int])
    assert_type(parse(model="m", messages=stored), ParsedChatCompletion[None])
    agent = client.agents.chat.completions
    assert_type(agent.parse(messages=stored, response_format=list[int]), ParsedChatCompletion[list[int]])
    opened = client.chat.completions.stream(model="m", messages=stored, response_format=int)
    assert_type(opened, StreamManager[ParsedStream[int]])
    with opened as stream:
        assert_type(stream.snapshot, ParsedChatCompletion[int])
        assert_type(stream.current_completion_snapshot, ParsedChatCompletion[int])
        for event in stream.events():
            if event.type == "content.done":
                assert_type(event.parsed, int | None)
        assert_type(stream.completion().parsed, int | None)
        assert_type(stream.get_final_completion(), ParsedChatCompletion[int])
    of_agent = agent.stream(messages=stored, response_format=Answer(list[int]))
    assert_type(of_agent, StreamManager[ParsedStream[list[int]]])
    assert_type(client.chat.completions.stream(model="m", messages=stored), StreamManager)
    fan = client.chat.completions.fan_out(
        n=3, first=1, model="m", messages=stored, response_format=int, stop_when=is_small
    )
    assert_type(fan, FanOut[ParsedChatCompletion[int]])
    assert_type(fan.snapshot, ParsedChatCompletion[int])
    assert_type(fan.completion().choices[0].message.parsed, int | None)
    assert_type(fan.get_final_completion(), ParsedChatCompletion[int])
    assert_type(
        agent.fan_out(n=3, messages=stored, response_format=list[int]),
        FanOut[ParsedChatCompletion[list[int]]],
    )
    results = client.chat.completions.map(
        [{"messages": stored}], model="m", response_format=int, output_retries=1
    )
    assert_type(results, MapResults[ParsedChatCompletion[int]])
    for result in results:
        assert_type(result, MapResult[ParsedChatCompletion[int]])
        assert_type(result.parsed, int | None)
        assert_type(result.unwrap().parsed, int | None)
    assert_type(
        agent.map([{"messages": stored}], response_format=Answer(int)), MapResults[ParsedChatCompletion[int]]
    )


def is_small(choice: ParsedChoice[int]) -> bool:
    """Whether a choice is wanted."""
    return bool(choice.message.parsed)


def streams(client: Gradient) -> None:
    """The stream and its views."""
    for chunk in client.chat.completions.create(model="m", messages=[], stream=True):
        assert_type(chunk, ChatCompletionChunk)
    annotated: Stream[ChatCompletionChunk] = client.chat.completions.create(
        model="m", messages=[], stream=True
    )
    assert_type(annotated, Stream)
    with client.chat.completions.stream(model="m", messages=[]) as stream:
        assert_type(stream, Stream)
        for text in stream.text:
            assert_type(text, str)
        for data in stream.raw:
            assert_type(data, bytes)
        for chunk in stream.choice(1):
            assert_type(chunk, ChatCompletionChunk)
        for event in stream.events():
            if event.type == "content.delta":
                assert_type(event, ContentDeltaEvent)
        assert_type(stream.completion(), ChatCompletion)
        assert_type(stream.get_final_completion(), ChatCompletion)
        assert_type(stream.snapshot, ChatCompletion)
        assert_type(stream.usage, CompletionUsage | None)
        assert_type(stream.status_code, int)
    with client.agents.chat.completions.stream(messages=[], k=3) as stream:
        assert_type(stream, Stream)


def look_up(city: str) -> str:
    """Look a city up."""
    return city


def runs(client: Gradient) -> None:
    """Runs, and their completions."""
    run = client.chat.completions.run
    with run(model="m", messages=[], tools=[look_up], stop_when=lambda run: len(run.turns) > 3) as plain:
        assert_type(plain, ToolRun[ChatCompletion])
        for event in plain:
            assert_type(event, ToolRunEvent)
        assert_type(plain.completion(), ChatCompletion)
    typed = run(model="m", messages=[], tools=[look_up], response_format=list[int])
    assert_type(typed.completion().parsed, list[int] | None)
    for event in typed:
        if event.type == "content.done":
            assert_type(event.parsed, list[int] | None)
    agent = client.agents.chat.completions.run(messages=[], tools=[look_up], k=3, response_format=list[int])
    assert_type(agent, ToolRun[ParsedChatCompletion[list[int]]])


def others(client: Gradient) -> None:
    """Fan-outs, maps, models, options."""
    with client.chat.completions.fan_out(n=2, first=1, model="m", messages=[]) as fan:
        assert_type(fan, FanOut)
        assert_type(fan.completion(), ChatCompletion)
        for chunk in fan:
            assert_type(chunk, ChatCompletionChunk)
    assert_type(client.agents.chat.completions.fan_out(n=2, k=3, messages=[]), FanOut)
    call: dict[str, Any] = {"model": "m", "messages": []}
    results = client.chat.completions.map([call], max_concurrency=3, on_error="raise", temperature=0)
    assert_type(results, MapResults)
    for result in results:
        assert_type(result, MapResult)
        if result.error is None:
            assert_type(result.completion, ChatCompletion)
    assert_type(client.models.list(timeout=3), ModelList)
    for model in client.models.list():
        assert_type(model, ModelInfo)
    assert_type(client.timeout, Timeout)
    assert_type(client.with_options(timeout=5), Gradient)
    assert_type(client.copy(max_retries=5), Gradient)
    with GradientAI(api_key="My API Key", timeout=5) as other:
        assert_type(other, Gradient)


def mistakes(client: Gradient) -> None:
    """What the checkers refuse; an ignore that is not needed is an error as well."""
    Gradient(api_kye="k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.with_options(max_retires=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.chat.completions.create(model="m", messages=[], temprature=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.chat.completions.map([], window="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
