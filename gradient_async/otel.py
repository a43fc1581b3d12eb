"""OpenTelemetry traces and metrics of calls, by the semantic conventions for generative AI.

Requires the extra ``otel``. Records one span for each call, from the first attempt to the end of the reply or stream, and
three histograms. Prompts and replies are not recorded.

    client = AsyncGradient(hooks=[OpenTelemetry()])

Source of the attribute and metric names: OpenTelemetry's GenAI semantic conventions, spans and client metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from ._version import __version__
from .errors import APIError, escape
from .hooks import CallInfo, Hook

__all__ = ["OpenTelemetry"]

_PROVIDER = "digitalocean"
_OPERATIONS = {"chat": "chat", "agent": "invoke_agent"}
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS = [4**power for power in range(14)]
# Parameters of a request that are numbers or names, and their attributes in the conventions.
_PARAMETERS = {
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "model": "gen_ai.request.model",
    "n": "gen_ai.request.choice.count",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
}
_MAX_NAME = 200  # maximum characters of a name that a server sent
Attributes = dict[str, str | int | float | bool | Sequence[str]]


class OpenTelemetry(Hook):
    """A hook that records traces and metrics of every call except listing models.

    Args:
        tracer_provider: Provider for spans; None uses the global one.
        meter_provider: Provider for metrics; None uses the global one.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer("gradient_async", __version__, tracer_provider)
        meter = metrics.get_meter("gradient_async", __version__, meter_provider)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="Time from the call to its end",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time from the sent request to the first content of a stream",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of prompts and of replies",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

    def on_request(self, call: CallInfo) -> None:
        """Start the span at the first attempt."""
        operation = _OPERATIONS.get(call.operation)
        if operation is None or self in call.state:
            return
        attributes = _request_attributes(call, operation)
        model = call.params.get("model")
        call.state[self] = self._tracer.start_span(
            f"{operation} {model}" if model else operation, kind=SpanKind.CLIENT, attributes=attributes
        )

    def on_retry(self, call: CallInfo) -> None:
        """Add the retry to the span."""
        span: Span | None = call.state.get(self)
        if span is not None:
            span.add_event("retry", {"wait": call.wait or 0.0, "error.type": call.error_type or ""})

    def on_end(self, call: CallInfo) -> None:
        """End the span, and record the metrics."""
        span: Span | None = call.state.pop(self, None)
        if span is None:
            return
        span.set_attributes(_reply_attributes(call))
        if call.outcome in {"failed", "cancelled"}:
            span.set_status(Status(StatusCode.ERROR, _description(call)))
        span.end()
        self._record(call)

    def _record(self, call: CallInfo) -> None:
        common: dict[str, Any] = {
            "gen_ai.operation.name": _OPERATIONS[call.operation],
            "gen_ai.provider.name": _PROVIDER,
            **_server(call),
        }
        if call.params.get("model"):
            common["gen_ai.request.model"] = call.params["model"]
        completion = call.completion
        if completion is not None and completion.model:
            common["gen_ai.response.model"] = escape(completion.model, _MAX_NAME)
        usage = None if completion is None else completion.usage
        if usage is not None:
            self._tokens.record(usage.prompt_tokens, common | {"gen_ai.token.type": "input"})
            self._tokens.record(usage.completion_tokens, common | {"gen_ai.token.type": "output"})
        if call.first_token is not None:
            self._first_chunk.record(call.first_token, common)
        if call.outcome in {"failed", "cancelled"} and call.error_type is not None:
            common["error.type"] = call.error_type
        self._duration.record(call.elapsed, common)


def _description(call: CallInfo) -> str:
    """Return the class of the error and the status; the text of an error may repeat prompts and replies."""
    error = call.error
    status = error.status_code if isinstance(error, APIError) else None
    return type(error).__name__ if status is None else f"{type(error).__name__} {status}"


def _server(call: CallInfo) -> Attributes:
    url = urlsplit(call.url)
    return {
        "server.address": url.hostname or "",
        "server.port": url.port or (443 if url.scheme == "https" else 80),
    }


def _request_attributes(call: CallInfo, operation: str) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.stream": call.stream,
        **_server(call),
    }
    for name, attribute in _PARAMETERS.items():
        value = call.params.get(name)
        if isinstance(value, (str, int, float)):
            attributes[attribute] = value
    stop = call.params.get("stop")
    if stop:
        attributes["gen_ai.request.stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    return attributes


def _reply_attributes(call: CallInfo) -> Attributes:
    attributes: Attributes = {"gradient_async.attempts": call.attempts}
    if call.status_code is not None:
        attributes["http.response.status_code"] = call.status_code
    if call.request_id is not None:
        attributes["gradient_async.request_id"] = call.request_id
    if call.first_token is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = call.first_token
    if call.outcome in {"failed", "cancelled"} and call.error_type is not None:
        attributes["error.type"] = call.error_type
    completion = call.completion
    if completion is None:
        return attributes
    if completion.id:
        attributes["gen_ai.response.id"] = escape(completion.id, _MAX_NAME)
    if completion.model:
        attributes["gen_ai.response.model"] = escape(completion.model, _MAX_NAME)
    reasons = [
        escape(choice.finish_reason, _MAX_NAME) for choice in completion.choices if choice.finish_reason
    ]
    if reasons:
        attributes["gen_ai.response.finish_reasons"] = reasons
    usage = completion.usage
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
        if usage.cache_read_input_tokens:
            attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read_input_tokens
        if usage.cache_created_input_tokens:
            attributes["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_created_input_tokens
    return attributes
