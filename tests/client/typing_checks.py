"""Never run: what the type checkers have to conclude about the public API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict, assert_type

from msgspec import Struct
from pydantic import BaseModel

from gradient_async import (
    NOT_GIVEN,
    Answer,
    APIResponse,
    APIStatusError,
    AsyncGradient,
    AsyncStream,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionStream,
    ChatCompletionStreamEvent,
    ChatCompletionStreamState,
    Choice,
    CompletionUsage,
    ContentDoneEvent,
    FanOut,
    FanOutResult,
    GradientError,
    Journal,
    MapFailure,
    MapResult,
    MapResults,
    MapSuccess,
    ModelInfo,
    ModelList,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
    ParsedChatCompletionMessage,
    ParsedChatCompletionStream,
    ParsedChoice,
    Timeout,
    Tool,
    ToolCall,
    ToolFinishedEvent,
    ToolRun,
    ToolRunEvent,
    ToolStartedEvent,
    tool,
)
from gradient_async.events import ContentDeltaEvent
from gradient_async.stream import StreamManager
from gradient_async.types import Headers, MessageParam, ToolParam


async def completions(client: AsyncGradient, *, maybe: bool) -> None:
    """Both overloads of ``create``, and the one for a flag that is not known."""
    create = client.chat.completions.create
    done = await create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert_type(done, ChatCompletion)
    assert_type(done.choices[0].message, ChatCompletionMessage)
    assert_type(done.choices[0].message.content, str | None)
    assert_type(done.choices[0].finish_reason, str | None)
    assert_type(await create(model="m", messages=[done.choices[0].message], stream=False), ChatCompletion)
    stored = [{"role": "user", "content": "hi"}]
    stream = await create(model="m", messages=stored, stream=True, temperature=0.5, timeout=Timeout(idle=3))
    assert_type(stream, ChatCompletionStream)
    assert_type(await create(model="m", messages=stored, stream=maybe), ChatCompletion | ChatCompletionStream)
    async for chunk in stream:
        assert_type(chunk, ChatCompletionChunk)
        assert_type(chunk.choices[0].delta.content, str | None)
    agent = client.agents.chat.completions
    assert_type(await agent.create(messages=stored, include_retrieval_info=True), ChatCompletion)
    assert_type(await agent.create(messages=stored, stream=True), ChatCompletionStream)


class Invoice(Struct):
    """The type of an answer."""

    number: str


class Receipt(Struct, tag=True):
    """Another type."""


class Model(BaseModel):
    """A model of pydantic."""

    number: str


class Keys(TypedDict):
    """A type of dictionaries."""

    number: str


def look_up(city: str) -> str:
    """Look a city up."""
    return city


async def runs(client: AsyncGradient) -> None:
    """The completion of a run is typed by ``response_format``."""
    messages = [{"role": "user", "content": "hi"}]
    run = client.chat.completions.run
    plain = run(model="m", messages=messages, tools=[look_up], max_turns=3, temperature=0, n=1)
    assert_type(plain, ToolRun[ChatCompletion])
    assert_type(await plain.completion(), ChatCompletion)
    assert_type(plain.turns, list[ChatCompletion])
    assert_type(plain.usage, CompletionUsage | None)
    async with plain as entered:
        assert_type(entered, ToolRun[ChatCompletion])
        async for event in entered:
            assert_type(event, ToolRunEvent)
            assert_type(event.turn, int)
            if event.type == "content.delta":
                assert_type(event, ContentDeltaEvent)
            elif event.type == "tool.started":
                assert_type(event, ToolStartedEvent)
            elif event.type == "tool.finished":
                assert_type(event, ToolFinishedEvent)
                assert_type(event.error, Exception | None)
    schema: Mapping[str, object] = {"type": "json_object"}
    assert_type(
        run(model="m", messages=messages, tools=[look_up], response_format=schema), ToolRun[ChatCompletion]
    )
    assert_type(
        run(model="m", messages=messages, tools=[look_up], response_format=None), ToolRun[ChatCompletion]
    )
    typed = run(model="m", messages=messages, tools=[tool(look_up)], response_format=Invoice)
    assert_type(typed, ToolRun[ParsedChatCompletion[Invoice]])
    assert_type((await typed.completion()).parsed, Invoice | None)
    async for event in typed:
        assert_type(event, ToolRunEvent[Invoice])
        if event.type == "content.done":
            assert_type(event.parsed, Invoice | None)
    assert_type(
        run(model="m", messages=messages, tools=[look_up], response_format=Answer(Model)),
        ToolRun[ParsedChatCompletion[Model]],
    )
    assert_type(
        run(model="m", messages=messages, tools=[look_up], response_format=list[Invoice]),
        ToolRun[ParsedChatCompletion[list[Invoice]]],
    )
    agent = client.agents.chat.completions.run(
        messages=messages, tools=[look_up], k=3, response_format=Invoice, stop_when=enough
    )
    assert_type(agent, ToolRun[ParsedChatCompletion[Invoice]])
    assert_type(
        client.agents.chat.completions.run(messages=messages, tools=[look_up]), ToolRun[ChatCompletion]
    )
    any_run: ToolRun[ChatCompletion] = typed
    await any_run.aclose()
    run(model="m", messages=messages, tools=[look_up], stop_when=enough_later, on_tool_error=explain)
    run(model="m", messages=messages, tools=[look_up], stop_when=lambda run: len(run.turns) > 3)
    run(model="m", messages=messages, tools=[look_up], n=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    run(model="m", messages=messages)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def enough(run: ToolRun[Any]) -> bool:
    """End a run."""
    return len(run.turns) > 1


async def enough_later(run: ToolRun[Any]) -> bool:
    """End a run."""
    return len(run.turns) > 1


async def explain(call: ToolCall, error: Exception) -> str:
    """Explain an error."""
    return f"{call.id}: {error}"


async def answers(client: AsyncGradient) -> None:
    """The type of an answer is inferred from ``response_format``."""
    messages = [{"role": "user", "content": "hi"}]
    parse = client.chat.completions.parse
    done = await parse(model="m", messages=messages, response_format=Invoice, output_retries=2, temperature=0)
    assert_type(done, ParsedChatCompletion[Invoice])
    assert_type(done.parsed, Invoice | None)
    assert_type(done.choices[0], ParsedChoice[Invoice])
    assert_type(done.choices[0].message, ParsedChatCompletionMessage[Invoice])
    assert_type(done.choices[0].message.parsed, Invoice | None)
    await parse(model="m", messages=[*messages, done.choices[0].message])
    completion: ChatCompletion = done
    assert completion.to_dict()
    named = await parse(model="m", messages=messages, response_format=Answer(Invoice, name="invoice"))
    assert_type(named, ParsedChatCompletion[Invoice])
    assert_type(
        await parse(model="m", messages=messages, response_format=list[Invoice]),
        ParsedChatCompletion[list[Invoice]],
    )
    assert_type(
        await parse(model="m", messages=messages, response_format=dict[str, Invoice]),
        ParsedChatCompletion[dict[str, Invoice]],
    )
    assert_type(await parse(model="m", messages=messages, response_format=int), ParsedChatCompletion[int])
    assert_type(await parse(model="m", messages=messages, response_format=Model), ParsedChatCompletion[Model])
    assert_type(await parse(model="m", messages=messages, response_format=Keys), ParsedChatCompletion[Keys])
    assert_type(await parse(model="m", messages=messages), ParsedChatCompletion[None])
    assert_type(await parse(model="m", messages=messages, response_format=None), ParsedChatCompletion[None])
    assert_type(
        await parse(model="m", messages=messages, response_format=NOT_GIVEN), ParsedChatCompletion[None]
    )
    # mypy infers Any for a Mapping[str, Any], because any value of the mapping could be of any type.
    schema: Mapping[str, object] = {"type": "json_object"}
    assert_type(await parse(model="m", messages=messages, response_format=schema), ParsedChatCompletion[None])
    assert_type(
        await parse(model="m", messages=messages, response_format={"type": "json_object"}),
        ParsedChatCompletion[None],
    )
    agent = client.agents.chat.completions
    assert_type(
        await agent.parse(messages=messages, response_format=Invoice, k=3), ParsedChatCompletion[Invoice]
    )
    assert_type(await agent.parse(messages=messages), ParsedChatCompletion[None])
    raw = await client.chat.completions.with_raw_response.parse(
        model="m", messages=messages, response_format=Invoice
    )
    assert_type(raw, APIResponse[ParsedChatCompletion[Invoice]])
    assert_type(await raw.parse(), ParsedChatCompletion[Invoice])
    assert_type(Answer(Invoice), Answer[Invoice])
    assert_type(Answer(list[Invoice], strict=True).decode(""), list[Invoice])
    try:
        await parse(model="m", messages=messages, response_format=Invoice)
    except OutputValidationError as error:
        assert_type(error.completion, ParsedChatCompletion[Any])
        assert_type((error.choice, error.text, error.path), tuple[int, str, str | None])


async def answers_in_streams(client: AsyncGradient) -> None:
    """The stream, its completions and its events have the type; deltas are plain data."""
    messages = [{"role": "user", "content": "hi"}]
    stream = client.chat.completions.stream
    opened = stream(model="m", messages=messages, response_format=Invoice, n=2)
    assert_type(opened, StreamManager[ParsedChatCompletionStream[Invoice]])
    async with opened as typed:
        assert_type(typed, ParsedChatCompletionStream[Invoice])
        assert_type(typed.snapshot, ParsedChatCompletion[Invoice])
        assert_type(typed.current_completion_snapshot.parsed, Invoice | None)
        async for event in typed.events():
            if event.type == "content.delta":
                assert_type(event.parsed, Any)
            elif event.type == "content.done":
                assert_type(event, ContentDoneEvent[Invoice])
                assert_type(event.parsed, Invoice | None)
        async for chunk in typed:
            assert_type(chunk, ChatCompletionChunk)
        assert_type(await typed.completion(), ParsedChatCompletion[Invoice])
        assert_type((await typed.get_final_completion()).choices[0], ParsedChoice[Invoice])
        plain: ChatCompletionStream = typed
        assert_type(plain.attempts, int)
    called = await stream(model="m", messages=messages, response_format=Answer(Invoice))
    assert_type(called, ParsedChatCompletionStream[Invoice])
    listed = stream(model="m", messages=messages, response_format=list[Invoice])
    assert_type(listed, StreamManager[ParsedChatCompletionStream[list[Invoice]]])
    assert_type(stream(model="m", messages=messages), StreamManager)
    assert_type(
        stream(model="m", messages=messages, response_format=None), StreamManager[ChatCompletionStream]
    )
    schema: Mapping[str, object] = {"type": "json_object"}
    assert_type(stream(model="m", messages=messages, response_format=schema), StreamManager)
    agent = client.agents.chat.completions.stream
    assert_type(
        agent(messages=messages, response_format=dict[str, int], k=3),
        StreamManager[ParsedChatCompletionStream[dict[str, int]]],
    )
    assert_type(agent(messages=messages, k=3), StreamManager)
    either: ParsedChatCompletionStream[Invoice | Receipt] = await stream(
        model="m", messages=messages, response_format=Invoice | Receipt
    )
    assert_type((await either.completion()).parsed, Invoice | Receipt | None)


def on_event(event: ChatCompletionStreamEvent[Invoice], old: AsyncStream[ChatCompletionChunk]) -> None:
    """An event of a typed stream; and the annotation of other clients, which is the plain stream."""
    if isinstance(event, ContentDeltaEvent):
        assert_type(event.delta, str)
    if event.type == "content.done":
        assert_type(event.parsed, Invoice | None)
    assert_type(old, ChatCompletionStream)


def is_cheap(choice: ParsedChoice[Invoice]) -> bool:
    """Whether a choice is wanted."""
    return choice.message.parsed is not None


async def is_cheap_later(choice: ParsedChoice[Invoice]) -> bool:
    """Whether a choice is wanted, after a wait."""
    return is_cheap(choice)


def is_short(choice: Choice) -> bool:
    """Whether a choice of any kind is wanted."""
    return not choice.message.content


async def answers_of_many(client: AsyncGradient) -> None:
    """Fan-outs and maps are generic over the completion."""
    messages = [{"role": "user", "content": "hi"}]
    fan_out = client.chat.completions.fan_out
    fan = fan_out(n=3, first=1, model="m", messages=messages, response_format=Invoice, stop_when=is_cheap)
    assert_type(fan, FanOut[ParsedChatCompletion[Invoice]])
    async with fan:
        assert_type(fan.snapshot, ParsedChatCompletion[Invoice])
        completion = await fan.completion()
        assert_type(completion, ParsedChatCompletion[Invoice])
        assert_type(completion.choices[0].message.parsed, Invoice | None)
        assert_type((await fan.get_final_completion()).parsed, Invoice | None)
    assert_type(fan.results, list[FanOutResult[ParsedChatCompletion[Invoice]]])
    assert_type(fan.results[0].parsed, Invoice | None)
    fan_out(n=3, model="m", messages=messages, response_format=Answer(Invoice), stop_when=is_cheap_later)
    fan_out(n=3, model="m", messages=messages, response_format=Invoice, stop_when=is_short)
    assert_type(
        fan_out(n=3, model="m", messages=messages, response_format=list[Invoice]),
        FanOut[ParsedChatCompletion[list[Invoice]]],
    )
    assert_type(fan_out(n=3, model="m", messages=messages, stop_when=is_short), FanOut[ChatCompletion])
    assert_type(fan_out(n=3, model="m", messages=messages, response_format={"type": "json_object"}), FanOut)
    of_agent = client.agents.chat.completions.fan_out(n=3, messages=messages, response_format=Invoice, k=3)
    assert_type(of_agent, FanOut[ParsedChatCompletion[Invoice]])
    either: FanOut[ParsedChatCompletion[Invoice | Receipt]] = fan_out(
        n=3, model="m", messages=messages, response_format=Invoice | Receipt
    )
    assert_type((await either.completion()).parsed, Invoice | Receipt | None)
    # mypy infers FanOut[Any] for a lambda: in its eyes the lambda fits the overload for any object as well, and no overloads
    # with different types of choices can prevent that.
    by_lambda: FanOut[ParsedChatCompletion[Invoice]] = fan_out(
        n=3,
        model="m",
        messages=messages,
        response_format=Invoice,
        stop_when=lambda choice: choice.message.parsed is not None and bool(choice.message.parsed.number),
    )
    assert_type((await by_lambda.completion()).parsed, Invoice | None)

    requests = [{"messages": messages}]
    map_ = client.chat.completions.map
    results = map_(requests, response_format=Invoice, output_retries=2, model="m", window=3)
    assert_type(results, MapResults[ParsedChatCompletion[Invoice]])
    async for result in results:
        assert_type(result, MapSuccess[ParsedChatCompletion[Invoice]] | MapFailure)
        assert_type(result.unwrap(), ParsedChatCompletion[Invoice])
        assert_type(result.parsed, Invoice | None)
        if result.error is None:
            assert_type(result.completion.choices[0], ParsedChoice[Invoice])
        elif isinstance(result.error, OutputError):
            assert_type(result.error.completion, ParsedChatCompletion[Any])
        kept: MapResult[ParsedChatCompletion[Invoice]] = result
        assert_type(kept.resumed, bool)
    assert_type(
        map_(requests, response_format=Answer(list[Invoice])), MapResults[ParsedChatCompletion[list[Invoice]]]
    )
    assert_type(map_(requests, response_format={"type": "json_object"}), MapResults)
    assert_type(
        client.agents.chat.completions.map(requests, response_format=Invoice, k=3),
        MapResults[ParsedChatCompletion[Invoice]],
    )
    word: MapResults[ParsedChatCompletion[Literal["a", "b"]]] = map_(
        requests, response_format=Literal["a", "b"]
    )
    async for one in word:
        assert_type(one.parsed, Literal["a", "b"] | None)


async def unions(client: AsyncGradient) -> None:
    """Mypy does not infer unions and literals, so a variable of the type says what they are."""
    messages = [{"role": "user", "content": "hi"}]
    parse = client.chat.completions.parse
    either: ParsedChatCompletion[Invoice | Receipt] = await parse(
        model="m", messages=messages, response_format=Invoice | Receipt
    )
    assert_type(either.parsed, Invoice | Receipt | None)
    word: ParsedChatCompletion[Literal["a", "b"]] = await parse(
        model="m", messages=messages, response_format=Literal["a", "b"]
    )
    assert_type(word.parsed, Literal["a", "b"] | None)


@tool
async def get_weather(city: str, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather of a city."""
    return f"{city} {unit}"


@tool(strict=True, timeout=5)
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


def subtract(a: int, b: int) -> int:
    """Subtract two numbers."""
    return a - b


async def tools(client: AsyncGradient) -> None:
    """A tool is callable like its function; functions, tools and dictionaries are tools of a request."""
    assert_type(await get_weather("Berlin", unit="F"), str)
    assert_type(add(1, b=2), int)
    assert_type(tool(subtract, name="minus")(3, 1), int)
    assert_type((add.name, add.description, add.timeout), tuple[str, str | None, float | None])
    assert_type(add.arguments("{}"), dict[str, Any])
    given: list[Tool[..., Any] | Callable[..., Any]] = [get_weather, add, subtract]
    messages = [{"role": "user", "content": "hi"}]
    chat = client.chat.completions
    done = await chat.create(model="m", messages=messages, tools=[get_weather, subtract, add.to_dict()])
    assert_type(done.choices[0].message.tool_calls, list[ToolCall] | None)
    await chat.create(model="m", messages=messages, tools=given)
    await chat.parse(model="m", messages=messages, tools=given, response_format=Invoice)
    chat.fan_out(n=2, model="m", messages=messages, tools=given)
    async with chat.stream(model="m", messages=messages, tools=(get_weather,)) as stream:
        await stream.completion()


async def parameters(client: AsyncGradient) -> None:
    """Every form of parameters and messages, as a literal and as a variable of its type."""
    messages: list[MessageParam] = [
        {"role": "system", "content": "x", "name": "n"},
        {"role": "developer", "content": "x", "name": "n"},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "", "filename": "f"}}],
            "name": "n",
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "audio": {"id": "a"}},
        {
            "role": "assistant",
            "name": "n",
            "content": None,
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "g", "input": "x"}}],
        },
    ]
    tools: list[ToolParam] = [
        {"type": "custom", "custom": {"name": "g", "format": {"type": "text"}}},
        {"type": "function", "function": {"name": "f"}},
    ]
    schema: Mapping[str, Any] = MappingProxyType({"type": "json_object"})
    chat, agent = client.chat.completions, client.agents.chat.completions
    done = await chat.create(
        model="router:mine",
        messages=messages,
        tools=tools,
        tool_choice={"type": "custom", "custom": {"name": "g"}},
        routing_preference="budget",
        response_format=schema,
        reasoning=schema,
        metadata=MappingProxyType({"a": "b"}),
        audio={"voice": "v", "format": "wav"},
        function_call={"name": "f"},
        functions=[{"name": "f"}],
        modalities=["text", "audio"],
        moderation={"model": "m"},
        prediction={"type": "content", "content": "x"},
        prompt_cache_options={"mode": "explicit"},
        safety_identifier="u",
        service_tier="flex",
        store=False,
        verbosity="low",
        web_search_options={},
    )
    assert_type(done.body, Any)
    assert_type(done.headers, Headers)
    assert_type(done.model_dump(include={"choices": {0: {"message"}}}), dict[str, Any])
    opened = await agent.create(
        messages=[*messages, done.choices[0].message, done.choices[0].message.to_dict()],
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}},
        store=None,
        verbosity=NOT_GIVEN,
    )
    assert_type(opened, ChatCompletionStream)
    async for chunk in opened:
        assert_type(chunk.body, Any)
    fan = chat.fan_out(n=2, model="m", messages=messages, functions=[], function_call="none")
    assert_type(fan.results[0].headers, Headers)
    assert_type(fan.results, list[FanOutResult[ChatCompletion]])
    assert_type(fan.results[0].choice, Choice | None)
    assert_type(client.with_options(keep_body=True).keep_body, bool)


async def streams(client: AsyncGradient) -> None:
    """The stream and its views."""
    async with client.chat.completions.stream(
        model="m", messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        assert_type(stream, ChatCompletionStream)
        async for text in stream.text:
            assert_type(text, str)
        async for data in stream.raw:
            assert_type(data, bytes)
        async for chunk in stream.choice(1):
            assert_type(chunk, ChatCompletionChunk)
        async for event in stream.events():
            assert_type(event.choice, int | None)
            if event.type == "content.delta":
                assert_type(event, ContentDeltaEvent)
                assert_type(event.snapshot, str)
        assert_type(await stream.completion(), ChatCompletion)
        assert_type(stream.snapshot, ChatCompletion)


async def results(client: AsyncGradient, stored: MapResult, anything: object) -> None:
    """Results of many requests: ``error is None``, the class, or `unwrap` tells what there is."""
    requests = [{"model": "m", "messages": [{"role": "user", "content": "hi"}]}]
    with Journal("results.jsonl", retry_errors=True) as journal:
        opened = client.chat.completions.map(requests, journal=journal)
    assert_type(opened, MapResults)
    async for result in client.chat.completions.map(requests, journal=Path("results.jsonl"), temperature=0):
        assert_type(result, MapSuccess | MapFailure)
        assert_type(result.unwrap(), ChatCompletion)
        assert_type(result.resumed, bool)
        if result.error is None:
            assert_type(result, MapSuccess)
            assert_type(result.completion.choices[0].message.content, str | None)
        else:
            assert_type(result, MapFailure)
            assert_type(result.error, GradientError)
            assert_type(result.completion, None)
        if result.completion is None:
            assert_type(result.error, GradientError)
        else:
            assert_type(result.completion, ChatCompletion)
    if isinstance(stored, MapFailure):
        assert_type(stored.error, GradientError)
    else:
        assert_type(stored.completion, ChatCompletion)
    if isinstance(anything, (MapSuccess, MapFailure)):
        anything.unwrap()


async def others(client: AsyncGradient) -> None:
    """Models, raw responses, errors."""
    assert_type(await client.models.list(), ModelList)
    async for model in client.models.list():
        assert_type(model, ModelInfo)
    raw = client.chat.completions.with_raw_response
    response = await raw.create(
        model="m", messages=[{"role": "user", "content": "hi"}], routing_preference="budget"
    )
    assert_type(response, APIResponse[ChatCompletion])
    assert_type(await response.parse(), ChatCompletion)
    streaming = client.chat.completions.with_streaming_response
    async with streaming.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    ) as opened:
        assert_type(await opened.parse(), ChatCompletionStream)
    assert_type(client.timeout, Timeout)
    assert_type(client.default_headers, dict[str, Any])
    assert_type(
        client.chat.completions.fan_out(n=2, first=1, on_error="collect", model="m", messages=[]), FanOut
    )
    assert_type(client.agents.chat.completions.fan_out(n=2, k=3, messages=[]), FanOut)
    try:
        await client.models.list()
    except APIStatusError as error:
        assert_type(error.status_code, int)
    assert_type(client.with_options(timeout=5), AsyncGradient)
    assert_type(client.api_key, str | None)
    client.base_url = "https://x.test"
    client.timeout = Timeout(idle=3)


async def annotated(client: AsyncGradient, state: ChatCompletionStreamState) -> None:
    """Annotations as code for other clients has them."""
    stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(
        model="m", messages=[], stream=True
    )
    assert_type(stream, AsyncStream[ChatCompletionChunk])
    assert_type(stream, ChatCompletionStream)
    async for chunk in stream:
        assert_type(chunk, ChatCompletionChunk)
        for event in state.handle_chunk(chunk):
            assert_type(event.choice, int | None)
    await stream.response.aclose()
    assert_type(state.get_final_completion(), ChatCompletion)


async def mistakes(client: AsyncGradient) -> None:
    """What checkers report: each comment would be superfluous otherwise, which is an error, too."""
    async for _ in client.chat.completions.stream(model="m", messages=[]):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    with client:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
        pass
    client.responses  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnusedExpression]
    client.organization = "o"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
