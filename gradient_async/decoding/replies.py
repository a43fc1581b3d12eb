"""Decodes the bodies of awaited replies to completions and lists of models, and repairs what the typed decoder refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from ..errors import APIResponseValidationError, escape
from ..types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    FunctionDelta,
    ModelInfo,
    ModelList,
    ToolCallDelta,
)
from ..types.messages import normalize_message
from ..types.nesting import MAX_VALUES, UNLIMITED, TooManyValuesError, check_json, has_long_number, max_light
from .choiceless import Choiceless, OtherAPI, identify
from .error_bodies import ErrorBody, describe_error, find_glued_error
from .logprobs import give_back, take_logprobs
from .normalize import (
    DECODE_ERRORS,
    DOCUMENTED_REASONS,
    clean,
    is_object,
    is_silent,
    keep_number,
    keep_text,
    loads,
    loads_or_none,
    may_hide_text,
    normalize_finish_reason,
    to_completion,
)

_SHOWN = 64 * 1024  # maximum bytes of a body that an error holds

# Fields that `as_chunk` copies, because they have the same form in a completion and a chunk, or in a message and a delta.
_SAME_IN_CHUNK = tuple(
    name for name in ChatCompletionChunk.__struct_fields__ if name not in {"choices", "object"}
)
_SAME_IN_DELTA = tuple(
    name for name in ChoiceDelta.__struct_fields__ if name not in {"tool_calls", "function_call"}
)

_decode = msgspec.json.Decoder(ChatCompletion).decode
_STREAM = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?::|(?:data|event|id|retry):)")


def decode_completion(content: bytes, *, max_values: int | None = MAX_VALUES) -> ChatCompletion:
    """Decode the body of an awaited reply.

    Args:
        content: The whole body.
        max_values: How many values it may have: see `Limits.values`.

    Raises:
        APIResponseValidationError: If the body is not a completion; the message says why.
        TooManyValuesError: If the body has too many values.
    """
    problem: str
    try:
        return _decode_completion(content, max_values or UNLIMITED)
    except TooManyValuesError:
        raise
    except DECODE_ERRORS as refused:
        problem = str(refused)
    raise APIResponseValidationError(
        f"the reply is not a chat completion: {problem}", body=_beginning(content)
    )


def _decode_completion(content: bytes, max_values: int) -> ChatCompletion:
    taken: Sequence[ChoiceLogprobs | None] = ()
    light = len(content) <= max_light(max_values)
    if light:
        check_json(content)  # also checks the fields that the typed decoder ignores
    else:
        content, taken = take_logprobs(content, max_values)
    try:
        if light or not has_long_number(content):
            completion = _decode(content)
            if completion.choices and completion._error is None and not _may_hide_text(completion, content):
                return _finish(completion, taken)
    except DECODE_ERRORS:
        pass
    body: Any = None
    problem = ""
    try:
        body = loads(content, 0)
    except DECODE_ERRORS as refused:
        start = escape(_beginning(content[:80]))
        problem = f"{refused}; it begins with {start!r}" if start else str(refused)
    found = _identify(content, body)
    if isinstance(found, ErrorBody):
        problem = f"it is an error: {found.message}"
    elif isinstance(found, OtherAPI):
        problem = f"it belongs to {found.name}"
    elif not problem:
        completion = _finish(to_completion(body), taken)
        if completion.choices:
            return completion
        problem = f"it has no choices{_quoted(body)}"
    raise ValueError(problem)


def _quoted(body: Any) -> str:
    """Return the message in an unexpected body, in a form that can be appended to a message of ours."""
    message = describe_error(body).message
    return f", and says {message!r}" if message else ""


def _may_hide_text(completion: ChatCompletion, content: bytes) -> bool:
    for choice in completion.choices:
        message = choice.message
        if not message.content and is_silent(message):  # nearly every message has content
            return may_hide_text(content, "message")
    return False


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
        # No two choices have the same index. So if there are too many choices, at least one index is too high.
        if index >= choices:
            raise APIResponseValidationError(
                f"the reply has more choices, or a higher index, than choices={choices} allows; "
                "raise Limits(choices=...) to allow more"
            )
        if calls is not None and len(calls) > tool_calls:
            raise APIResponseValidationError(
                f"choice {index} has more than tool_calls={tool_calls} tool calls; "
                "raise Limits(tool_calls=...) to allow more"
            )


def identify_reply(content: bytes) -> Choiceless:
    """Identify the body of a 2xx reply that is not a completion; of several lines of JSON, the first counts."""
    return _identify(content, loads_or_none(content))


def _identify(content: bytes, body: Any) -> Choiceless:
    if body is None:
        body = loads_or_none(content.lstrip().partition(b"\n")[0])
    return (find_glued_error(content) if body is None else None) or identify(body)


def reply_error(content: bytes) -> ErrorBody | None:
    """Return the error in the body of a 2xx reply; None if there is none."""
    found = identify_reply(content)
    return found if isinstance(found, ErrorBody) else None


def is_stream(content: bytes) -> bool:
    """Whether the body of a reply begins like an event stream; JSON never does. The content type does not matter."""
    return content[:1] != b"{" and _STREAM.match(content) is not None  # nearly every body begins with {


def _finish(completion: ChatCompletion, taken: Sequence[ChoiceLogprobs | None]) -> ChatCompletion:
    """Normalize messages, order the choices, and reset the fields that only the session sets."""
    # A body may contain these three fields under their encoded names.
    completion.request_id = None
    completion.rate_limits = None
    completion.attempts = 1
    choices = completion.choices
    if taken:  # saves a call for nearly all replies
        give_back(choices, taken)
    for choice in choices:
        message = choice.message
        if message._reasoning is not None or message.tool_calls is not None:
            normalize_message(message)
        if choice.finish_reason not in DOCUMENTED_REASONS:
            choice.finish_reason = normalize_finish_reason(choice.finish_reason)
    if len({choice.index for choice in choices}) < len(choices):
        # Some servers send no index, or the same index for all choices.
        for index, choice in enumerate(choices):
            choice.index = index
    choices.sort(key=_index_of)
    return completion


def _index_of(choice: Choice) -> int:
    return choice.index


def decode_models(content: bytes, *, max_values: int | None = MAX_VALUES) -> ModelList:
    """Decode the list of models.

    Args:
        content: The whole body.
        max_values: How many values it may have: see `Limits.values`.

    Raises:
        APIResponseValidationError: If the body is not a list of models.
    """
    problem: str
    try:
        body = loads(content, max_values or UNLIMITED)
        entries = body.get("data") if is_object(body) else None
        if isinstance(entries, list):
            for entry in (entry for entry in cast("list[Any]", entries) if is_object(entry)):
                for name in ("id", "object", "owned_by"):
                    keep_text(entry, name)
                keep_number(entry, "created")
            return ModelList(data=msgspec.convert(clean(entries), list[ModelInfo], strict=False))
        problem = f"it has no list named data{_quoted(body)}"
    except DECODE_ERRORS as refused:
        problem = str(refused)
    raise APIResponseValidationError(
        f"the reply is not a list of models: {problem}", body=_beginning(content)
    )


def _beginning(content: bytes) -> str:
    return content[:_SHOWN].decode("utf-8", "replace")


def as_chunk(completion: ChatCompletion) -> ChatCompletionChunk:
    """Turn a completion into one chunk that assembles to the same completion.

    Some servers ignore ``stream=True`` and send a whole completion.
    """
    chunk = ChatCompletionChunk(
        **{name: getattr(completion, name) for name in _SAME_IN_CHUNK},
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
    return chunk.receive_as(completion)


def _as_delta(message: ChatCompletionMessage) -> ChoiceDelta:
    call = message.function_call
    return ChoiceDelta(
        **{name: getattr(message, name) for name in _SAME_IN_DELTA},
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
    )
