"""Whole replies to messages: the typed decoder first, and behind it the repairs."""

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
from .normalize import REFUSED, clean, is_object, keep_number, keep_text, loads, settle, to_completion

__all__ = ["as_chunk", "check_bounds", "decode_completion", "decode_models", "reply_error"]

_completion_decoder = msgspec.json.Decoder(ChatCompletion)


def decode_completion(content: bytes) -> ChatCompletion:
    """Decode the body of an awaited reply.

    Args:
        content: The whole body.

    Raises:
        APIResponseValidationError: If it is not a completion; the message says where.
    """
    problem: str
    try:
        completion = _completion_decoder.decode(content)
        if completion.choices and completion._error is None:  # noqa: SLF001  # private to the package
            return _own(completion)
    except REFUSED:
        pass
    try:
        body = loads(content)
        error = find_error(body)
        completion = _own(to_completion(body))
        if error is not None:
            problem = f"it is an error: {error.message}"
        elif isinstance(body.get("choices"), list):
            return completion
        else:
            problem = "it has no choices"
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        problem = "nested too deep" if isinstance(error, RecursionError) else str(error)
    raise APIResponseValidationError(f"the reply is not a chat completion: {problem}")


def check_bounds(completion: ChatCompletion, *, choices: int, tool_calls: int) -> None:
    """Refuse a completion with more in it than a stream may bring.

    Args:
        completion: A whole reply.
        choices: Most choices; their indices are smaller.
        tool_calls: Most tool calls of a choice.

    Raises:
        APIResponseValidationError: If there is more; the message names the limit.
    """
    for choice in completion.choices:
        index, calls = choice.index, choice.message.tool_calls
        if index < 0:
            raise APIResponseValidationError(f"the reply has a choice of index {index}")
        if index >= choices or len(completion.choices) > choices:
            raise APIResponseValidationError(
                f"the reply has more choices, or a higher index, than choices={choices} allows; "
                "raise Limits(choices=...) if that is meant"
            )
        if calls is not None and len(calls) > tool_calls:
            raise APIResponseValidationError(
                f"choice {index} has more than tool_calls={tool_calls} tool calls; "
                "raise Limits(tool_calls=...) if that is meant"
            )


def reply_error(content: bytes) -> ErrorBody | None:
    """Return the error that the body of a 2xx reply holds, or None if it holds none."""
    try:
        return find_error(loads(content))
    except (ValueError, RecursionError):
        return None


def _own(completion: ChatCompletion) -> ChatCompletion:
    """Reset the fields that are the session's to set, should a body have dared to name them."""
    completion.request_id = None
    completion.rate_limits = None
    completion.attempts = 1
    for choice in completion.choices:
        settle(choice.message)
    choices = completion.choices
    if len(choices) > 1:
        if len({choice.index for choice in choices}) < len(choices):
            # Servers that number none of them, or all alike.
            for index, choice in enumerate(choices):
                choice.index = index
        choices.sort(key=_index_of)
    return completion


def _index_of(choice: Choice) -> int:
    return choice.index


def decode_models(content: bytes) -> ModelList:
    """Decode the list of models.

    Raises:
        APIResponseValidationError: If the body is none.
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
    except (ValueError, RecursionError) as error:
        problem = "nested too deep" if isinstance(error, RecursionError) else str(error)
    raise APIResponseValidationError(f"the reply is not a list of models: {problem}")


def as_chunk(completion: ChatCompletion) -> ChatCompletionChunk:
    """Turn a whole completion into the one chunk that a stream of it would add up to.

    Some servers ignore ``stream=True`` and answer at once.
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
