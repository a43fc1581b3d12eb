"""OpenTelemetry: a span and measurements for each call, without words of anybody."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from client_calls import CALL, MESSAGES, Start, create_completion, open_stream
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from gradient_async import APIConnectionError, APIError, AuthenticationError, Retry
from gradient_async.otel import OpenTelemetry
from gradient_async.testing import CLOSE, HOLD, chunk, completion, reply_json, reply_sse, reply_writes

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "cache_read_input_tokens": 3,
    "cache_created_input_tokens": 4,
}


class Sink:
    """Collects what is exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        tracer_provider = TracerProvider()
        tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.hook = OpenTelemetry(
            tracer_provider=tracer_provider, meter_provider=MeterProvider(metric_readers=[self._metrics])
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    def points(self, name: str) -> list[HistogramDataPoint]:
        data: Any = self._metrics.get_metrics_data()
        return [
            cast("HistogramDataPoint", point)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def sink() -> Sink:
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
