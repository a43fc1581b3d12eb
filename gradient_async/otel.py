"""OpenTelemetry traces and metrics of calls, by the semantic conventions for generative AI.

Requires the extra ``otel``. Records a span for each call, from the first attempt to the end of the reply or stream, a span for
each function that a run calls, and metrics. Prompts and replies are recorded only if you ask for it, and keys never.

    client = AsyncGradient(hooks=[OpenTelemetry()])

Source of the names: OpenTelemetry's repository semantic-conventions-genai, v0.1.0 (client inference, agent and tool spans,
metrics), if ``OTEL_SEMCONV_STABILITY_OPT_IN`` contains ``gen_ai_latest_experimental``; otherwise the last version before, in
semantic-conventions v1.41.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from opentelemetry import context, metrics, trace
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from ._version import __version__
from .errors import APIError, escape
from .hooks import CallInfo, Hook, ToolInfo
from .types import ChatCompletion

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
_LATEST_PARAMETERS = _PARAMETERS | {"reasoning_effort": "gen_ai.request.reasoning.level"}
_OUTPUT_TYPES = {"text": "text", "json_object": "json", "json_schema": "json"}
# Values of OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT that permit content in spans; "event_only" does not.
_CAPTURES = {"true", "span_only", "span_and_event"}
_MAX_NAME = 200  # maximum characters of a name that a server sent
_KINDS = (
    "input_tokens",
    "output_tokens",
    "cache_read.input_tokens",
    "cache_write.input_tokens",
    "reasoning.output_tokens",
)
_METRICS = {
    "gen_ai.client.operation.duration": "Time from a call to its end",
    "gen_ai.client.operation.time_to_first_chunk": "Time from the sent request to the first content of a stream",
    "gen_ai.client.operation.time_per_output_chunk": "Time between reads that brought content of a stream",
    "gen_ai.client.token.usage": "Tokens of prompts and of replies",
}
_LATEST_METRICS = {
    "gen_ai.client.inference.duration": "Time from the call of a model to its end",
    "gen_ai.client.inference.time_to_first_chunk": "Time from the sent request to the first content of a stream",
    "gen_ai.client.inference.time_per_output_chunk": "Time between reads that brought content of a stream",
    "gen_ai.client.inference.operation.input_tokens": "Tokens of one prompt",
    "gen_ai.client.inference.operation.output_tokens": "Tokens of one reply",
    **{f"gen_ai.client.inference.usage.{kind}": "Tokens of all calls, by kind" for kind in _KINDS},
    "gen_ai.client.invoke_agent.duration": "Time from the call of an agent to its end",
    "gen_ai.execute_tool.duration": "How long a function ran",
}
Attributes = dict[str, str | int | float | bool | Sequence[str]]


class OpenTelemetry(Hook):
    """A hook that records traces and metrics of every call except listing models, and of functions that a run calls.

    Args:
        tracer_provider: Provider for spans; None uses the global one.
        meter_provider: Provider for metrics; None uses the global one.
        capture_content: Whether spans have the messages of requests and replies. If None, the default, the variable
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` decides.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        capture_content: bool | None = None,
    ) -> None:
        opted_in = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
        self._latest = "gen_ai_latest_experimental" in [each.strip() for each in opted_in]
        if capture_content is None:
            variable = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "")
            capture_content = variable.strip().lower() in _CAPTURES
        self._captures = capture_content
        self._tracer = trace.get_tracer("gradient_async", __version__, tracer_provider)
        meter = metrics.get_meter("gradient_async", __version__, meter_provider)
        self._record = {
            name: _metric(meter, name, description)
            for name, description in (_LATEST_METRICS if self._latest else _METRICS).items()
        }

    def on_request(self, call: CallInfo) -> None:
        """Start the span at the first attempt."""
        operation = _OPERATIONS.get(call.operation)
        if operation is None or self in call.state:
            return
        model = call.params.get("model") if operation == "chat" else None
        call.state[self] = self._tracer.start_span(
            f"{operation} {model}" if model else operation,
            kind=SpanKind.CLIENT,
            attributes=_request_attributes(call, latest=self._latest),
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
        if _has_failed(call):
            span.set_status(Status(StatusCode.ERROR, _description(call)))
        try:
            if span.is_recording():
                span.set_attributes(_reply_attributes(call, latest=self._latest))
                if self._captures:
                    span.set_attributes(_content(call, latest=self._latest))
        finally:  # `_content` may raise: with validate=False, messages may have any form
            span.end()
            common = _identity(call)
            for name, value, more in _measurements(call, latest=self._latest):
                self._record[name](value, common | more)

    def on_tool_start(self, tool: ToolInfo) -> None:
        """Start a span, which is the parent of spans that the function starts."""
        name = tool.call.function.name
        attributes: Attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": escape(tool.redact(tool.call.id), _MAX_NAME),
        }
        if tool.description:
            attributes["gen_ai.tool.description"] = tool.description
        span = self._tracer.start_span(f"execute_tool {name}", attributes=attributes)
        tool.state[self] = span, context.attach(trace.set_span_in_context(span))

    def on_tool_end(self, tool: ToolInfo) -> None:
        """End the span of the function."""
        span, token = tool.state.pop(self)
        context.detach(token)
        attributes: Attributes = {"gen_ai.tool.name": tool.call.function.name, "gen_ai.tool.type": "function"}
        if tool.error_type is not None:
            attributes["error.type"] = tool.error_type
            span.set_attribute("error.type", tool.error_type)
            span.set_status(Status(StatusCode.ERROR, tool.error_type))
        span.end()
        if self._latest:  # the older conventions have no metric of tools
            self._record["gen_ai.execute_tool.duration"](tool.seconds, attributes)


# Metrics


def _metric(meter: Meter, name: str, description: str) -> Callable[[float, Attributes], None]:
    """Make a metric; return the function that records a value."""
    unit, bounds = ("{token}", _TOKENS) if "token" in name else ("s", _SECONDS)
    if ".usage." in name:
        return meter.create_counter(name, unit=unit, description=description).add
    return meter.create_histogram(
        name, unit=unit, description=description, explicit_bucket_boundaries_advisory=bounds
    ).record


def _measurements(call: CallInfo, *, latest: bool) -> Iterator[tuple[str, float, Attributes]]:
    """Yield name, value and attributes of each metric of a call, without the attributes of `_identity`."""
    failure: Attributes = {"error.type": call.error_type or ""} if _has_failed(call) else {}
    usage = _usage(call.completion)
    of = "gen_ai.client.inference" if latest else "gen_ai.client.operation"
    if latest and call.operation == "agent":
        yield "gen_ai.client.invoke_agent.duration", call.elapsed, failure
        return
    yield f"{of}.duration", call.elapsed, failure
    if call.first_token is not None:
        yield f"{of}.time_to_first_chunk", call.first_token, {}
    for gap in call.gaps:
        yield f"{of}.time_per_output_chunk", gap, {}
    for kind in ("input", "output"):
        if latest:
            yield f"{of}.operation.{kind}_tokens", usage.get(f"{kind}_tokens", 0), failure
        elif usage:
            yield "gen_ai.client.token.usage", usage[f"{kind}_tokens"], {"gen_ai.token.type": kind}
    if latest:  # the latest conventions count failed calls as well
        for kind in _KINDS:
            yield f"{of}.usage.{kind}", usage.get(kind, 0), {"gen_ai.token.modality": "unknown"}


# Attributes


def _has_failed(call: CallInfo) -> bool:
    return call.outcome in {"failed", "cancelled"} and call.error_type is not None


def _description(call: CallInfo) -> str:
    """Return the class and the status of the error, but not its message, which may repeat prompts and replies."""
    error = call.error
    status = error.status_code if isinstance(error, APIError) else None
    return type(error).__name__ if status is None else f"{type(error).__name__} {status}"


def _shown(call: CallInfo, name: str) -> str:
    """Return a name that a server sent, without keys, on one line, and cut to `_MAX_NAME` characters."""
    return escape(call.redact(name), _MAX_NAME)


def _target(call: CallInfo) -> Attributes:
    url = urlsplit(call.url)
    return {
        "gen_ai.operation.name": _OPERATIONS[call.operation],
        "gen_ai.provider.name": _PROVIDER,
        "server.address": url.hostname or "",
        "server.port": url.port or (443 if url.scheme == "https" else 80),
    }


def _identity(call: CallInfo) -> Attributes:
    """Return the attributes that all metrics of a call have."""
    attributes = _target(call)
    if call.params.get("model"):
        attributes["gen_ai.request.model"] = call.params["model"]
    if call.completion is not None and call.completion.model:
        attributes["gen_ai.response.model"] = _shown(call, call.completion.model)
    return attributes


def _usage(completion: ChatCompletion | None) -> dict[str, int]:
    """Return the counts of tokens under the names of the conventions; empty if the server reported no usage."""
    usage = None if completion is None else completion.usage
    if usage is None:
        return {}
    prompt, reply = usage.prompt_tokens_details, usage.completion_tokens_details
    counts: tuple[Any, ...] = (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cache_read_input_tokens or (prompt and prompt.cached_tokens),
        usage.cache_created_input_tokens or (prompt and prompt.cache_write_tokens),
        reply and reply.reasoning_tokens,
    )
    return {kind: count or 0 for kind, count in zip(_KINDS, counts, strict=True)}


def _request_attributes(call: CallInfo, *, latest: bool) -> Attributes:
    attributes = _target(call)
    if call.stream or not latest:
        attributes["gen_ai.request.stream"] = call.stream
    for name, attribute in (_LATEST_PARAMETERS if latest else _PARAMETERS).items():
        value = call.params.get(name)
        if isinstance(value, (str, int, float)) and not (latest and name == "n" and value == 1):
            attributes[attribute] = value
    stop = call.params.get("stop")
    if stop:
        attributes["gen_ai.request.stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    form = call.params.get("response_format")
    if isinstance(form, Mapping):
        kind = str(cast("Mapping[str, Any]", form).get("type"))
        if kind in _OUTPUT_TYPES:
            attributes["gen_ai.output.type"] = _OUTPUT_TYPES[kind]
    return attributes


def _reply_attributes(call: CallInfo, *, latest: bool) -> Attributes:
    attributes: Attributes = {"gradient_async.attempts": call.attempts}
    if call.status_code is not None:
        attributes["http.response.status_code"] = call.status_code
    if call.request_id is not None:
        attributes["gradient_async.request_id"] = call.request_id
    if call.first_token is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = call.first_token
    if _has_failed(call):
        attributes["error.type"] = call.error_type or ""
    completion = call.completion
    if completion is None:
        return attributes
    if completion.id:
        attributes["gen_ai.response.id"] = _shown(call, completion.id)
    if completion.model:
        attributes["gen_ai.response.model"] = _shown(call, completion.model)
    # The latest conventions require a reason for each choice; "error" stands for a missing reason.
    reasons = [choice.finish_reason or ("error" if latest else "") for choice in completion.choices]
    if any(reasons):
        attributes["gen_ai.response.finish_reasons"] = [_shown(call, reason) for reason in reasons if reason]
    for kind, count in _usage(completion).items():
        if count or "." not in kind:
            name = kind if latest else kind.replace("cache_write", "cache_creation")
            attributes[f"gen_ai.usage.{name}"] = count
    return attributes


# Content


def _content(call: CallInfo, *, latest: bool) -> Attributes:
    """Return the messages of the request and of the reply as JSON."""
    completion = call.completion
    replies: list[dict[str, Any]] = []
    for choice in () if completion is None else completion.choices:
        reply = _message(choice.message.to_dict())
        # The latest conventions have the finish_reason only in `gen_ai.response.finish_reasons`.
        replies.append(reply if latest else reply | {"finish_reason": choice.finish_reason or "error"})
    messages = [_message(message) for message in call.params.get("messages") or ()]
    attributes: Attributes = {}
    for name, value in (("gen_ai.input.messages", messages), ("gen_ai.output.messages", replies)):
        if value:
            attributes[name] = call.redact(msgspec.json.encode(value).decode())
    return attributes


def _message(message: Any) -> dict[str, Any]:
    fields = cast("dict[str, Any]", message if isinstance(message, Mapping) else message.to_dict())
    return {"role": fields.get("role", "assistant"), "parts": list(_parts(fields))}


def _parts(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a message in the form of the conventions. Images, sound and files are reduced to their kind."""
    content: Any = message.get("content")
    if message.get("role") == "tool":
        yield {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return
    if message.get("reasoning_content"):
        yield {"type": "reasoning", "content": message["reasoning_content"]}
    for part in [content] if isinstance(content, str) else content or ():
        fields: dict[str, Any] = {"text": part} if isinstance(part, str) else part
        if isinstance(fields.get("text"), str):
            yield {"type": "text", "content": fields["text"]}
        else:
            yield {"type": "generic", "generic_type": fields.get("type")}
    if message.get("refusal"):
        yield {"type": "text", "content": message["refusal"]}
    for call in message.get("tool_calls") or ():
        function: dict[str, Any] = call.get("function") or call.get("custom") or {}
        arguments = function.get("arguments", function.get("input"))
        yield {
            "type": "tool_call",
            "id": call.get("id"),
            "name": function.get("name"),
            "arguments": arguments,
        }
