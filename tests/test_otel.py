"""OpenTelemetry: spans and measurements of calls and functions, without words of anybody unless asked for."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from client_calls import CALL, MESSAGES, Start, create_completion, open_stream
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanKind
from runs import PARIS, answers, begin, calls, get_weather

from gradient_async import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    Gradient,
    Retry,
)
from gradient_async.otel import OpenTelemetry
from gradient_async.testing import CLOSE, HOLD, chunk, completion, reply_json, reply_sse, reply_writes

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "cache_read_input_tokens": 3,
    "cache_created_input_tokens": 4,
}


LATEST = "gen_ai_latest_experimental"
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


class Sink:
    """Collects what is exported."""

    def __init__(self, *, capture_content: bool | None = None, sampler: Sampler | None = None) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.hook = OpenTelemetry(
            tracer_provider=self.tracer_provider,
            meter_provider=MeterProvider(metric_readers=[self._metrics]),
            capture_content=capture_content,
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    @property
    def metrics(self) -> dict[str, list[Any]]:
        data: Any = self._metrics.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[HistogramDataPoint]:
        return cast("list[HistogramDataPoint]", self.metrics.get(name, []))

    @property
    def names(self) -> set[str]:
        """The names of all attributes and metrics."""
        metrics = self.metrics
        attributes = [span.attributes or {} for span in self.spans]
        attributes += [point.attributes or {} for points in metrics.values() for point in points]
        return {*metrics, *(name for each in attributes for name in each)}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def latest(monkeypatch: pytest.MonkeyPatch) -> Sink:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", f"http, {LATEST}")
    return Sink()


async def test_a_stream(start: Start, sink: Sink) -> None:
    reply = reply_sse(
        chunk("Hi", id="c1", model="m-2"),
        chunk(finish_reason="stop", usage=USAGE),
        headers={"x-request-id": "r1"},
    )
    server, client = await start(
        reply_json({}, 503),
        reply_writes([0.01, *reply.steps]),  # uvloop's clock counts milliseconds
        hooks=[sink.hook],
        max_retries=1,
        retry=Retry(max_backoff=0.01),
    )
    stream = await open_stream(client, temperature=0.5, max_tokens=9, seed=3, stop="END", n=1)
    await stream.completion()
    (span,) = sink.spans
    assert ("chat m", SpanKind.CLIENT, True) == (span.name, span.kind, span.status.is_unset)
    attributes = dict(span.attributes or {})
    assert attributes.pop("gen_ai.response.time_to_first_chunk")
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "digitalocean",
        "gen_ai.request.choice.count": 1,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.model": "m",
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.id": "c1",
        "gen_ai.response.model": "m-2",
        "gen_ai.usage.cache_creation.input_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gradient_async.attempts": 2,
        "gradient_async.request_id": "r1",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    (event,) = span.events
    assert ("retry", "503") == (event.name, (event.attributes or {})["error.type"])
    (duration,) = sink.points("gen_ai.client.operation.duration")
    assert (duration.count, (duration.attributes or {})["gen_ai.response.model"]) == (1, "m-2")
    assert 0 < sink.points("gen_ai.client.operation.time_to_first_chunk")[0].sum < duration.sum
    used = {
        (point.attributes or {})["gen_ai.token.type"]: point.sum
        for point in sink.points("gen_ai.client.token.usage")
    }
    assert used == {"input": 7, "output": 2}


async def test_an_awaited_call_that_fails(start: Start, sink: Sink) -> None:
    _, client = await start(reply_json({"message": "no"}, 401), hooks=[sink.hook])
    with pytest.raises(AuthenticationError):
        await create_completion(client, stop=["a", "b"])
    (span,) = sink.spans
    attributes = dict(span.attributes or {})
    assert (False, "AuthenticationError 401") == (span.status.is_ok, span.status.description)
    assert ("401", 401, ("a", "b")) == (
        attributes["error.type"],
        attributes["http.response.status_code"],
        attributes["gen_ai.request.stop_sequences"],
    )
    (duration,) = sink.points("gen_ai.client.operation.duration")
    assert (duration.attributes or {})["error.type"] == "401"
    assert sink.points("gen_ai.client.operation.time_to_first_chunk") == []


async def test_an_agent_without_words_or_model(start: Start, sink: Sink) -> None:
    """What the conventions ask for is left out where it is not known; prompts never show."""
    silent: Any = completion("A secret reply") | {"id": "", "model": "", "usage": None}
    silent["choices"][0]["finish_reason"] = None
    _, client = await start(reply_json(silent), hooks=[sink.hook], agent_access_key="k2")
    await client.agents.chat.completions.create(messages=MESSAGES)
    (span,) = sink.spans
    assert span.name == "invoke_agent"
    assert "secret" not in span.to_json()
    assert MESSAGES[0]["content"] not in span.to_json()
    assert not any(name.startswith("gen_ai.response") for name in span.attributes or {})


async def test_a_reply_without_details(start: Start, sink: Sink) -> None:
    """A raw reply is not decoded for the span; a cancelled call has none."""
    _, client = await start(reply_json(completion("ok") | {"usage": {"prompt_tokens": 1}}), hooks=[sink.hook])
    await create_completion(client)
    completions: Any = client.chat.completions
    await completions.with_raw_response.create(**CALL)
    first, raw = sink.spans
    assert "gen_ai.usage.cache_read.input_tokens" not in (first.attributes or {})
    assert "gen_ai.response.model" not in (raw.attributes or {})


async def test_a_call_that_got_no_answer(start: Start, sink: Sink) -> None:
    _, client = await start(reply_writes([CLOSE]), hooks=[sink.hook])
    with pytest.raises(APIConnectionError):
        await create_completion(client)
    (span,) = sink.spans
    attributes = dict(span.attributes or {})
    assert attributes["error.type"] == span.status.description == "APIConnectionError"
    assert "http.response.status_code" not in attributes


async def test_listing_models_is_not_traced(start: Start, sink: Sink) -> None:
    _, client = await start(
        reply_json({}, 503), hooks=[sink.hook], max_retries=1, retry=Retry(max_backoff=0.01)
    )
    await client.models.list()
    assert sink.spans == ()


async def test_a_stream_left_is_no_error(start: Start, sink: Sink) -> None:
    _, client = await start(hooks=[sink.hook])
    async with client.chat.completions.stream(**CALL) as stream:
        await anext(stream)
    (span,) = sink.spans
    assert span.status.is_unset
    assert "error.type" not in (span.attributes or {})


SECRET = "Grandmother's recipe"


@pytest.mark.parametrize(
    ("reply", "stream", "description"),
    [
        (reply_json({"error": {"message": SECRET, "code": "c"}}, 400), False, "BadRequestError 400"),
        (reply_json({"choices": SECRET}), False, "APIResponseValidationError 200"),
        (reply_sse(chunk("a"), {"error": {"message": SECRET}}), True, "StreamServerError 200"),
        (reply_sse(chunk("a"), SECRET), True, "StreamProtocolError 200"),
        (reply_sse(chunk(SECRET), done=False), True, "StreamTruncatedError 200"),
    ],
)
async def test_a_span_shows_the_class_of_an_error_and_not_its_text(
    start: Start, sink: Sink, reply: Any, stream: bool, description: str
) -> None:
    """Servers repeat prompts in errors, and some errors show what came of a reply."""
    _, client = await start(reply, hooks=[sink.hook])
    with pytest.raises(APIError):
        await ((await open_stream(client)).completion() if stream else create_completion(client))
    (span,) = sink.spans
    assert span.status.description == description
    assert SECRET not in span.to_json()


async def test_a_cancelled_call_shows_no_text(start: Start, sink: Sink) -> None:
    server, client = await start(reply_writes([HOLD]), hooks=[sink.hook])
    call = asyncio.ensure_future(create_completion(client))
    await server.wait_requests(1)
    call.cancel(SECRET)
    with pytest.raises(asyncio.CancelledError):
        await call
    (span,) = sink.spans
    assert span.status.description == "CancelledError"
    assert SECRET not in span.to_json()


async def test_names_of_a_server_are_escaped_and_cut(start: Start, sink: Sink) -> None:
    odd: Any = completion("ok") | {"id": "i\x1b" + "x" * 999, "model": "m\u202e" + "y" * 999}
    odd["choices"][0]["finish_reason"] = "s\x9b" + "z" * 999
    _, client = await start(reply_json(odd), hooks=[sink.hook])
    await create_completion(client)
    (span,) = sink.spans
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.response.id"] == "i\\x1b" + "x" * 198 + "…"
    assert attributes["gen_ai.response.model"] == "m\\u202e" + "y" * 198 + "…"
    assert attributes["gen_ai.response.finish_reasons"] == ("s\\x9b" + "z" * 198 + "…",)
    (duration,) = sink.points("gen_ai.client.operation.duration")
    assert (duration.attributes or {})["gen_ai.response.model"] == attributes["gen_ai.response.model"]


# The latest names


async def test_a_stream_by_the_latest_conventions(start: Start, latest: Sink) -> None:
    reply = reply_sse(chunk("Hi", model="m-2"), chunk("!"), chunk(finish_reason="stop", usage=USAGE))
    _, client = await start(reply_writes([0.01, *reply.steps]), hooks=[latest.hook])
    stream = await open_stream(client, n=1, reasoning_effort="low", response_format={"type": "grammar"})
    await stream.completion()
    (span,) = latest.spans
    attributes = dict(span.attributes or {})
    assert ("low", True, 4) == tuple(
        attributes[f"gen_ai.{name}"]
        for name in ("request.reasoning.level", "request.stream", "usage.cache_write.input_tokens")
    )
    absent = {"request.choice.count", "usage.cache_creation.input_tokens", "output.type"}
    assert not {f"gen_ai.{name}" for name in absent} & set(attributes)
    of = "gen_ai.client.inference"
    spent = {name: points[0].value for name, points in latest.metrics.items() if f"{of}.usage" in name}
    assert spent == {
        f"{of}.usage.input_tokens": 7,
        f"{of}.usage.output_tokens": 2,
        f"{of}.usage.cache_read.input_tokens": 3,
        f"{of}.usage.cache_write.input_tokens": 4,
        f"{of}.usage.reasoning.output_tokens": 0,
    }
    assert (7, 2) == (
        latest.points(f"{of}.operation.input_tokens")[0].sum,
        latest.points(f"{of}.operation.output_tokens")[0].sum,
    )
    for name in ("duration", "time_to_first_chunk"):
        (point,) = latest.points(f"{of}.{name}")
        assert (1, SECONDS) == (point.count, point.explicit_bounds)
    assert latest.points(f"{of}.operation.input_tokens")[0].explicit_bounds == tuple(
        4.0**n for n in range(14)
    )


@pytest.mark.parametrize("conventions", ["", LATEST])
async def test_the_time_between_chunks(
    start: Start, conventions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One measurement for each read that brought content after the first."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", conventions)
    sink = Sink()
    steps: list[Any] = []
    for step in reply_sse(chunk("a"), chunk("b"), chunk("c"), chunk(finish_reason="stop")).steps:
        steps += [step, 0.02]
    _, client = await start(reply_writes(steps), hooks=[sink.hook])
    stream = await open_stream(client)
    await stream.completion()
    gaps = stream.timing.gaps
    assert gaps
    of = "gen_ai.client.inference" if conventions else "gen_ai.client.operation"
    (point,) = sink.points(f"{of}.time_per_output_chunk")
    assert (len(gaps), SECONDS) == (point.count, point.explicit_bounds)
    assert point.sum == pytest.approx(sum(gaps))


async def test_failures_by_the_latest_conventions(start: Start, latest: Sink) -> None:
    """They count with no tokens, and choices that were cut have a reason."""
    cut = reply_sse(chunk("a"), done=False)
    _, client = await start(reply_json({}, 429), cut, hooks=[latest.hook])
    with pytest.raises(APIError):
        await create_completion(client)
    with pytest.raises(APIError):
        await (await open_stream(client)).completion()
    refused, short = latest.spans
    assert "gen_ai.request.stream" not in (refused.attributes or {})
    assert ("error",) == (short.attributes or {})["gen_ai.response.finish_reasons"]
    of = "gen_ai.client.inference"
    for name in ("duration", "operation.input_tokens", "operation.output_tokens"):
        kinds = [str((point.attributes or {})["error.type"]) for point in latest.points(f"{of}.{name}")]
        assert ["429", "StreamTruncatedError"] == sorted(kinds)
    for spent in latest.metrics[f"{of}.usage.output_tokens"]:
        assert (0, "unknown") == (spent.value, spent.attributes["gen_ai.token.modality"])


async def test_an_agent_by_the_latest_conventions(start: Start, latest: Sink) -> None:
    _, client = await start(hooks=[latest.hook])
    await client.agents.chat.completions.create(messages=MESSAGES, model="ignored")
    assert {"gen_ai.client.invoke_agent.duration"} == set(latest.metrics)
    assert "invoke_agent" == latest.spans[0].name


async def test_variables_are_read_when_the_hook_is_made(
    start: Start, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", LATEST)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    _, client = await start(hooks=[sink.hook])
    await create_completion(client)
    assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"} == set(sink.metrics)
    assert "gen_ai.input.messages" not in sink.names


async def test_spans_that_are_not_sampled(start: Start) -> None:
    """The metrics are complete nevertheless."""
    sink = Sink(sampler=ALWAYS_OFF)
    _, client = await start(hooks=[sink.hook])
    await create_completion(client)
    assert ((), 1) == (sink.spans, sink.points("gen_ai.client.operation.duration")[0].count)


# Functions of runs, and calls that make several requests


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def id_of(span: Any) -> int:
    return cast("int", span.get_span_context().span_id)


async def test_functions_of_a_run(start: Start, latest: Sink) -> None:
    tracer = latest.tracer_provider.get_tracer("test")

    async def look_up(city: str) -> str:
        """Look up a city."""
        with tracer.start_as_current_span("in a task"):
            await asyncio.sleep(0)
        return SECRET + city

    def fail() -> None:
        with tracer.start_as_current_span("in a thread"):
            raise ValueError(SECRET)

    replies = calls(("look_up", '{"city":"Rome"}', "a\x1b"), ("fail", "")), answers()
    _, client = await start(*replies, hooks=[latest.hook])
    with tracer.start_as_current_span("mine") as mine:
        await begin(client, look_up, fail).completion()
        assert trace.get_current_span() is mine
    spans = {span.name: span for span in latest.spans}
    assert {id_of(mine)} == {
        parent_of(spans[name]) for name in ("chat m", "execute_tool look_up", "execute_tool fail")
    }
    assert id_of(spans["execute_tool look_up"]) == parent_of(spans["in a task"])
    assert id_of(spans["execute_tool fail"]) == parent_of(spans["in a thread"])
    found, failed = spans["execute_tool look_up"], spans["execute_tool fail"]
    assert dict(found.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.call.id": "a\\x1b",
        "gen_ai.tool.description": "Look up a city.",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.type": "function",
    }
    assert (SpanKind.INTERNAL, True) == (found.kind, found.status.is_unset)
    assert ("ValueError", "ValueError") == (
        failed.status.description,
        (failed.attributes or {})["error.type"],
    )
    for span in (found, failed, spans["chat m"]):
        assert SECRET not in span.to_json()
    durations = {
        ((point.attributes or {})["gen_ai.tool.name"], (point.attributes or {}).get("error.type"))
        for point in latest.points("gen_ai.execute_tool.duration")
    }
    assert {("look_up", None), ("fail", "ValueError")} == durations


async def test_every_request_is_a_child_of_the_span_around_it(start: Start, sink: Sink) -> None:
    _, client = await start(hooks=[sink.hook])
    tracer = sink.tracer_provider.get_tracer("test")
    with tracer.start_as_current_span("mine") as mine:
        async with client.chat.completions.fan_out(n=2, **CALL) as fan:
            await fan.completion()
        async for _ in client.chat.completions.map([CALL, CALL]):
            pass
    assert [id_of(mine)] * 4 == [parent_of(span) for span in sink.spans if span.name == "chat m"]


async def test_without_asyncio_too(start: Start, sink: Sink) -> None:
    server, _ = await start()
    tracer = sink.tracer_provider.get_tracer("test")

    def call() -> int:
        with (
            tracer.start_as_current_span("mine") as mine,
            Gradient(inference_endpoint=server.url, model_access_key="k", hooks=[sink.hook]) as client,
        ):
            client.chat.completions.create(**CALL)
            return id_of(mine)

    assert await asyncio.to_thread(call) == parent_of(sink.spans[0])


# Content


@pytest.mark.parametrize(
    ("variable", "argument", "expected"),
    [
        ("", None, False),
        ("false", None, False),
        ("event_only", None, False),
        ("NO_CONTENT", None, False),
        ("True", None, True),
        (" SPAN_ONLY ", None, True),
        ("span_and_event", None, True),
        ("true", False, False),
        ("", True, True),
    ],
)
async def test_content_is_recorded_only_if_asked_for(
    start: Start, variable: str, argument: bool | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", variable)
    sink = Sink(capture_content=argument)
    _, client = await start(reply_json(completion(SECRET)), hooks=[sink.hook])
    await create_completion(client)
    assert expected == (SECRET in sink.spans[0].to_json())
    assert expected == (MESSAGES[0]["content"] in sink.spans[0].to_json())


@pytest.mark.parametrize("conventions", ["", LATEST])
async def test_the_form_of_messages(start: Start, conventions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", conventions)
    sink = Sink(capture_content=True)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    custom = {"id": "d", "type": "custom", "custom": {"name": "g", "input": "text"}}
    answer: Any = completion("Yes.", reasoning_content="Hm.", tool_calls=[call])
    _, client = await start(reply_json(answer), answers("No.", stream=False), hooks=[sink.hook])
    first = await create_completion(client)
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SECRET}"}}
    await create_completion(
        client,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, "b", image]},
            first.choices[0].message,
            {"role": "tool", "tool_call_id": "c", "content": "r"},
            {"role": "assistant", "content": None, "refusal": "Never.", "tool_calls": [custom]},
        ],
    )
    one, two = (span.attributes or {} for span in sink.spans)
    reply = {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "Hm."},
            {"type": "text", "content": "Yes."},
            {"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"},
        ],
    }
    reason = {} if conventions else {"finish_reason": answer["choices"][0]["finish_reason"]}
    assert [reply | reason] == json.loads(cast("str", one["gen_ai.output.messages"]))
    assert json.loads(cast("str", two["gen_ai.input.messages"])) == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "a"},
                {"type": "text", "content": "b"},
                {"type": "generic", "generic_type": "image_url"},
            ],
        },
        reply,
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "r"}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "Never."},
                {"type": "tool_call", "id": "d", "name": "g", "arguments": "text"},
            ],
        },
    ]
    assert SECRET not in sink.spans[1].to_json()


async def test_content_of_a_call_without_a_reply_or_messages(start: Start) -> None:
    sink = Sink(capture_content=True)
    _, client = await start(reply_json({}, 500), hooks=[sink.hook])
    elsewhere: dict[str, Any] = {"model": "m", "extra_body": {"messages": MESSAGES}}
    with pytest.raises(APIError):
        await client.chat.completions.create(**elsewhere)
    assert not {name for name in sink.names if name.endswith("messages")}


async def test_messages_of_any_form_do_not_keep_a_span_open(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(capture_content=True)
    _, client = await start(reply_json(completion("ok")), hooks=[sink.hook], validate=False)
    await create_completion(client, messages=[1])
    assert 1 == len(sink.spans) == sink.points("gen_ai.client.operation.duration")[0].count
    assert "a hook failed" in caplog.text


@pytest.mark.parametrize(
    ("key", "options", "headers"),
    [
        ("model-key-0123", {}, {}),
        ("default-key-0123", {"default_headers": {"X-Api-Key": "default-key-0123"}}, {}),
        ("own-key-0123", {}, {"X-Api-Key": "own-key-0123"}),
        ("own-key-0123", {"model_access_key": None}, {"Authorization": "Bearer own-key-0123"}),
    ],
)
async def test_no_span_has_a_key(
    start: Start, latest: Sink, key: str, options: dict[str, Any], headers: dict[str, str]
) -> None:
    """Servers may repeat keys, in names, ids and texts; also keys that only one call has."""
    sink = Sink(capture_content=True)
    echo: Any = completion(f"Your key is {key}") | {"id": key, "model": key}
    echo["choices"][0]["finish_reason"] = key
    replies = reply_json(echo), calls((*PARIS, key)), answers()
    _, client = await start(*replies, hooks=[sink.hook, latest.hook], **options)
    await create_completion(client, extra_headers=headers)
    await begin(client, get_weather, extra_headers=headers).completion()
    for each in (sink, latest):
        assert 4 == len(each.spans)
        assert not [span.to_json() for span in each.spans if key in span.to_json()]
        assert key not in str(each.metrics)


# The page


ROWS = re.findall(
    r"^\| `([a-z_.]+)` \| (both|latest|older) \|",
    (Path(__file__).parents[1] / "docs" / "observability.md").read_text("utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize("conventions", [LATEST, ""])
async def test_the_page_has_every_name(
    start: Start, conventions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no other: calls that record everything there is."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", conventions)
    sink = Sink(capture_content=True)
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    reply = reply_sse(chunk("a"), chunk(finish_reason="stop", usage=usage), headers={"x-request-id": "r1"})
    steps = [part for step in reply.steps for part in (step, 0.02)]
    _, client = await start(
        reply_writes(steps),
        calls(PARIS),
        answers(),
        answers(stream=False),
        reply_json({}, 500),
        hooks=[sink.hook],
    )
    stream = await open_stream(
        client,
        frequency_penalty=0.1,
        max_completion_tokens=9,
        n=2,
        presence_penalty=0.1,
        reasoning_effort="low",
        response_format={"type": "json_object"},
        seed=3,
        stop=["END"],
        temperature=0.5,
        top_p=0.5,
    )
    async with stream:
        async for _ in stream:
            pass
    await begin(client, get_weather).completion()
    await client.agents.chat.completions.create(messages=MESSAGES)
    with pytest.raises(APIError):
        await create_completion(client)
    mine = {"both", "latest" if conventions else "older"}
    assert {name for name, names in ROWS if names in mine} == sink.names
