"""Decodes the bodies of awaited replies to completions and lists of models, and repairs what the typed decoder refuses."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ..errors import APIResponseValidationError
from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChunkChoice,
    FunctionDelta,
    ModelInfo,
    ModelList,
    ToolCallDelta,
)
from .error_bodies import ErrorBody, find_error
from .normalize import (
    DECODE_ERRORS,
    clean,
    describe_decode_error,
    is_object,
    keep_number,
    keep_text,
    loads,
    loads_or_none,
    normalize_message,
    to_completion,
)

_decode = msgspec.json.Decoder(ChatCompletion).decode


def decode_completion(content: bytes) -> ChatCompletion:
    """Decode the body of an awaited reply.

    Args:
        content: The whole body.

    Raises:
        APIResponseValidationError: If the body is not a completion; the message says why.
    """
    problem: str
    try:
        completion = _decode(content)
        if completion.choices and completion._error is None:
            return _finish(completion)
    except DECODE_ERRORS:
        pass
    try:
        body = loads(content)
        error = find_error(body)
        completion = _finish(to_completion(body))
        if error is not None:
            problem = f"it is an error: {error.message}"
        elif isinstance(body.get("choices"), list):
            return completion
        else:
            problem = "it has no choices"
    except DECODE_ERRORS as refused:
        problem = describe_decode_error(refused)
    raise APIResponseValidationError(f"the reply is not a chat completion: {problem}")


def check_bounds(completion: ChatCompletion, *, choices: int, tool_calls: int) -> None:
    """Refuse a completion that exceeds the limits on choices and tool calls, as its stream would be refused.

    Args:
        completion: A whole reply.
        choices: Maximum number of choices; every index is smaller.
        tool_calls: Maximum number of tool calls of one choice.

    Raises:
        APIResponseValidationError: If a limit is exceeded; the message names it.
    """
    for choice in completion.choices:
        index, calls = choice.index, choice.message.tool_calls
        if index < 0:
            raise APIResponseValidationError(f"the reply has a choice of index {index}")
        if index >= choices or len(completion.choices) > choices:
            raise APIResponseValidationError(
                f"the reply has more choices, or a higher index, than choices={choices} allows; "
                "raise Limits(choices=...) to allow more"
            )
        if calls is not None and len(calls) > tool_calls:
            raise APIResponseValidationError(
                f"choice {index} has more than tool_calls={tool_calls} tool calls; "
                "raise Limits(tool_calls=...) to allow more"
            )


def reply_error(content: bytes) -> ErrorBody | None:
    """Return the error in the body of a 2xx reply; None if there is none."""
    return find_error(loads_or_none(content))


def _finish(completion: ChatCompletion) -> ChatCompletion:
    """Normalize messages, order the choices, and reset the fields that only the session sets."""
    # A body may contain these fields under their encoded names.
    completion.request_id = None
    completion.rate_limits = None
    completion.attempts = 1
    choices = completion.choices
    for choice in choices:
        normalize_message(choice.message)
    if len(choices) > 1:
        if len({choice.index for choice in choices}) < len(choices):
            # Some servers send no index, or the same index for all choices.
            for index, choice in enumerate(choices):
                choice.index = index
        choices.sort(key=_index_of)
    return completion


def _index_of(choice: Choice) -> int:
    return choice.index


def decode_models(content: bytes) -> ModelList:
    """Decode the list of models.

    Raises:
        APIResponseValidationError: If the body is not a list of models.
    """
    problem: str
    try:
        body = loads(content)
        entries = body.get("data") if is_object(body) else None
        if isinstance(entries, list):
            for entry in (entry for entry in cast("list[Any]", entries) if is_object(entry)):
                for name in ("id", "object", "owned_by"):
                    keep_text(entry, name)
                keep_number(entry, "created")
            return ModelList(data=msgspec.convert(clean(entries), list[ModelInfo], strict=False))
        problem = "it has no list named data"
    except DECODE_ERRORS as refused:
        problem = describe_decode_error(refused)
    raise APIResponseValidationError(f"the reply is not a list of models: {problem}")


def as_chunk(completion: ChatCompletion) -> ChatCompletionChunk:
    """Turn a completion into one chunk that assembles to the same completion.

    Some servers ignore ``stream=True`` and send a whole completion.
    """
    return ChatCompletionChunk(
        id=completion.id,
        created=completion.created,
        model=completion.model,
        usage=completion.usage,
        system_fingerprint=completion.system_fingerprint,
        service_tier=completion.service_tier,
        retrieval=completion.retrieval,
        functions=completion.functions,
        guardrails=completion.guardrails,
        choices=[
            ChunkChoice(
                index=choice.index,
                delta=_as_delta(choice.message),
                finish_reason=choice.finish_reason,
                logprobs=choice.logprobs,
            )
            for choice in completion.choices
        ],
    )


def _as_delta(message: ChatCompletionMessage) -> ChoiceDelta:
    call = message.function_call
    return ChoiceDelta(
        role=message.role,
        content=message.content,
        refusal=message.refusal,
        reasoning_content=message.reasoning_content,
        tool_calls=[
            ToolCallDelta(
                index=index,
                id=tool.id,
                type=tool.type,
                function=FunctionDelta(name=tool.function.name, arguments=tool.function.arguments),
                custom=tool.custom,
                extra_content=tool.extra_content,
            )
            for index, tool in enumerate(message.tool_calls)
        ]
        if message.tool_calls
        else None,
        function_call=None if call is None else FunctionDelta(name=call.name, arguments=call.arguments),
        annotations=message.annotations,
        audio=message.audio,
        reasoning_details=message.reasoning_details,
        extra_content=message.extra_content,
        content_parts=message.content_parts,
    )
