"""What a request took."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from .headers import RateLimits
from .model import Model


class CacheCreation(Model, gc=False, kw_only=True):
    """Tokens written to the prompt cache, by how long they stay.

    Attributes:
        ephemeral_5m_input_tokens: Tokens kept for five minutes.
        ephemeral_1h_input_tokens: Tokens kept for one hour.
    """

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class PromptTokensDetails(Model, gc=False, kw_only=True):
    """Of the prompt's tokens, how many were of a kind."""

    cached_tokens: int | None = None
    audio_tokens: int | None = None
    text_tokens: int | None = None
    image_tokens: int | None = None
    video_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionTokensDetails(Model, gc=False, kw_only=True):
    """Of the completion's tokens, how many were of a kind."""

    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    text_tokens: int | None = None
    image_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class CompletionUsage(Model, gc=False, kw_only=True):
    """Tokens that a request took.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of all choices together.
        total_tokens: Both together.
        cache_created_input_tokens: Prompt tokens written to the cache (Gradient).
        cache_creation: The same by how long they stay (Gradient).
        cache_read_input_tokens: Prompt tokens read from the cache (Gradient).
        prompt_tokens_details: Kinds of prompt tokens (other servers).
        completion_tokens_details: Kinds of completion tokens (other servers).

    Source: ``ChatCompletionUsage``, Gradient OpenAPI specification.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cache_created_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    cache_read_input_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


U = TypeVar("U", bound=Model)


def sum_usage(usage: U | None, more: U, *, less: U | None = None) -> U:
    """Add what another request took, kind by kind; a kind that nobody told stays None.

    Args:
        usage: What others took together, or None.
        more: What this one took.
        less: What it had told before, which ``usage`` has in it; or None.
    """
    sums: dict[str, Any] = {}
    for name in more.__struct_fields__:
        values = [None if part is None else getattr(part, name) for part in (usage, more, less)]
        known = next((value for value in values if value is not None), None)
        if known is None or isinstance(known, Model):
            parts = cast("list[Model | None]", values)
            sums[name] = (
                None if known is None else sum_usage(parts[0], parts[1] or type(known)(), less=parts[2])
            )
        else:
            sums[name] = (values[0] or 0) + (values[1] or 0) - (values[2] or 0)
    return type(more)(**sums)


class TopLogprob(Model, gc=False, kw_only=True):
    """One of the likeliest tokens at a position.

    Attributes:
        token: The token as text; may be half a character.
        logprob: Natural log probability, at most 0; -9999.0 stands for "very unlikely".
        bytes: UTF-8 bytes of the token, or None if it has no byte form.

    Source: ``ChatCompletionTokenLogprob.top_logprobs``, Gradient OpenAPI specification.
    """

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class TokenLogprob(Model, gc=False, kw_only=True):
    """One sampled token and how likely the model held it to be.

    Attributes:
        token: The token as text; may be half a character.
        logprob: Natural log probability, at most 0; -9999.0 stands for "very unlikely".
        bytes: UTF-8 bytes of the token, or None if it has no byte form.
        top_logprobs: The likeliest tokens at this position, at most 20, likeliest first.

    Source: ``ChatCompletionTokenLogprob``, Gradient OpenAPI specification.
    """

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class ChoiceLogprobs(Model, gc=False, kw_only=True):
    """Log probabilities of a choice's tokens; in a chunk, of that chunk's tokens only.

    Attributes:
        content: One entry a token of the text, or None.
        refusal: One entry a token of the refusal, or None.
    """

    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class Function(Model, gc=False, kw_only=True):
    """The function that the model calls.

    Attributes:
        name: Name of the function.
        arguments: JSON text as the model wrote it: it may be cut short or not be JSON at all.
    """

    name: str = ""
    arguments: str = ""


class FunctionDelta(Model, gc=False, kw_only=True):
    """A fragment of a function call.

    Attributes:
        name: Name of the function, usually only in the first fragment.
        arguments: The next piece of the arguments' JSON text.
    """

    name: str | None = None
    arguments: str | None = None


class ToolCall(Model, gc=False, kw_only=True):
    """One finished tool call of a message.

    Attributes:
        id: What the ``tool_call_id`` of the result refers to; empty if the server gave none.
        type: ``function``, or what other kind the server names.
        function: Name and arguments; empty for calls of another kind.
        custom: Payload of a call of type ``custom``, as it came.
        extra_content: What some servers want back with the call, as it came.
    """

    id: str = ""
    type: str = "function"
    function: Function = msgspec.field(default_factory=Function)
    custom: Any = None
    extra_content: Any = None


class ToolCallDelta(Model, gc=False, kw_only=True):
    """A fragment of a tool call.

    Attributes:
        index: Which of the choice's calls the fragment belongs to, or None where the server says nothing.
        id: Id of the call, usually only in the first fragment.
        type: Kind of the call, usually only in the first fragment.
        function: Name and the next piece of the arguments.
        custom: Payload of a call of type ``custom``, as it came.
        extra_content: What some servers want back with the call, as it came.
    """

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionDelta = msgspec.field(default_factory=FunctionDelta)
    custom: Any = None
    extra_content: Any = None


class ChatCompletionMessage(Model, gc=False, kw_only=True):
    """What the model said; valid as a message of the next request as it is.

    Attributes:
        role: ``assistant``.
        content: The text, or None beside tool calls and refusals.
        refusal: Why the model refused, if it did.
        reasoning_content: What the model thought, if the server tells (``reasoning`` on some servers).
        tool_calls: Calls the model wants made, or None if there are none.
        function_call: The older form of a single call.
        annotations: Citations and the like, as they came.
        audio: Spoken reply, as it came.
        reasoning_details: Reasoning in the form some servers want back, as it came.
        extra_content: What some servers want back, as it came.
        content_parts: The content as a list of parts, where the server sent one; ``content`` has its text.
    """

    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    reasoning_details: list[Any] | None = None
    extra_content: Any = None
    content_parts: list[Any] | None = None
    _reasoning: str | None = msgspec.field(default=None, name="reasoning")


class ChoiceDelta(Model, gc=False, kw_only=True):
    """What a chunk adds to one choice; the fields are those of the message.

    Attributes:
        content: The next piece of the text.
        role: Role of the message, usually only in the first chunk.
        tool_calls: Fragments of tool calls, or None if there are none.
        reasoning_content: The next piece of what the model thinks (``reasoning`` on some servers).
        refusal: The next piece of the refusal.
        function_call: A fragment of the older form of a single call.
        annotations: Citations and the like, as they came.
        audio: The next piece of a spoken reply, as it came.
        reasoning_details: Reasoning in the form some servers want back, as it came.
        extra_content: What some servers want back, as it came.
        content_parts: Content that came as a list of parts; ``content`` has its text.
    """

    content: str | None = None
    role: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    function_call: FunctionDelta | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    reasoning_details: list[Any] | None = None
    extra_content: Any = None
    content_parts: list[Any] | None = None
    _reasoning: str | None = msgspec.field(default=None, name="reasoning")


class Choice(Model, gc=False, kw_only=True):
    """One of the n answers.

    Attributes:
        index: Which of the choices this is, from 0.
        message: What the model said.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``content_filter`` or another; None while
            unfinished, and for good with servers that never send one.
        logprobs: Log probabilities of the tokens, if they were asked for.
    """

    index: int = 0
    message: ChatCompletionMessage = msgspec.field(default_factory=ChatCompletionMessage)
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None


class ChunkChoice(Model, gc=False, kw_only=True):
    """What a chunk says of one choice.

    Attributes:
        index: Which of the choices, from 0.
        delta: What is added to the message.
        finish_reason: Why the choice ended, in its last chunk.
        logprobs: Log probabilities of this chunk's tokens.
    """

    index: int = 0
    delta: ChoiceDelta = msgspec.field(default_factory=ChoiceDelta)
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None


class ChatCompletion(Model, gc=False, kw_only=True):
    """A whole answer.

    Attributes:
        id: The server's name for the answer; empty if it gave none.
        choices: The answers, ordered by index.
        created: Unix time in seconds; 0 if the server gave none.
        model: Model that answered; empty if the server did not say.
        object: ``chat.completion``.
        usage: Tokens taken, if the server told.
        system_fingerprint: Configuration of the server, if it told.
        service_tier: Tier that served the request, if the server told.
        retrieval: What an agent retrieved, as it came.
        functions: What functions an agent called, as it came.
        guardrails: What guardrails an agent triggered, as it came.
        request_id: The server's name for the request; set by the session.
        rate_limits: What the reply's headers said of limits; set by the session.
        attempts: How many requests it took; set by the session.

    Source: ``ChatCompletion``, Gradient OpenAPI specification.
    """

    id: str = ""
    choices: list[Choice] = []
    created: int = 0
    model: str = ""
    object: str = "chat.completion"
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    retrieval: Any = None
    functions: Any = None
    guardrails: Any = None
    request_id: str | None = msgspec.field(default=None, name="@request_id")
    rate_limits: RateLimits | None = msgspec.field(default=None, name="@rate_limits")
    attempts: int = msgspec.field(default=1, name="@attempts")
    _error: Any = msgspec.field(default=None, name="error")


class ChatCompletionChunk(Model, gc=False, kw_only=True):
    """One event of a stream.

    Attributes:
        id: The same in all chunks of most servers; empty if the server gave none.
        choices: What is added to which choice; empty in chunks that only tell usage.
        created: Unix time in seconds; 0 if the server gave none.
        model: Model that answers; empty if the server did not say.
        object: ``chat.completion.chunk``.
        usage: Tokens taken so far or in all, usually only in the last chunk.
        system_fingerprint: Configuration of the server, if it told.
        service_tier: Tier that serves the request, if the server told.
        retrieval: What an agent retrieved, as it came.
        functions: What functions an agent called, as it came.
        guardrails: What guardrails an agent triggered, as it came.

    Source: ``ChatCompletionChunk``, Gradient OpenAPI specification.
    """

    id: str = ""
    choices: list[ChunkChoice] = []
    created: int = 0
    model: str = ""
    object: str = "chat.completion.chunk"
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    retrieval: Any = None
    functions: Any = None
    guardrails: Any = None
    _error: Any = msgspec.field(default=None, name="error")


class ModelInfo(Model, gc=False, kw_only=True):
    """A model that the key may use.

    Attributes:
        id: Name to give as ``model``.
        object: ``model``.
        created: Unix time in seconds; 0 if the server gave none.
        owned_by: Who made it.
    """

    id: str = ""
    object: str = "model"
    created: int = 0
    owned_by: str = ""


class ModelList(Model, gc=False, kw_only=True):
    """The models that the key may use.

    Attributes:
        data: The models.
        object: ``list``.
    """

    data: list[ModelInfo] = []
    object: str = "list"
