"""The messages that a server sends: completions, chunks of a stream, usage, log probabilities, models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast, overload

import msgspec

from .headers import RateLimits
from .model import Hint, Model
from .nesting import AnyJSON, decode_arguments
from .received import Received, ReceivedReply


class CacheCreation(Model, gc=False, kw_only=True):
    """Tokens written to the prompt cache, by lifetime.

    Attributes:
        ephemeral_5m_input_tokens: Tokens kept for five minutes.
        ephemeral_1h_input_tokens: Tokens kept for one hour.
    """

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class PromptTokensDetails(Model, gc=False, kw_only=True):
    """Tokens of the prompt, by kind."""

    cached_tokens: int | None = None
    audio_tokens: int | None = None
    text_tokens: int | None = None
    image_tokens: int | None = None
    video_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionTokensDetails(Model, gc=False, kw_only=True):
    """Tokens of the completion, by kind."""

    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    text_tokens: int | None = None
    image_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class CompletionUsage(Model, gc=False, kw_only=True):
    """Tokens that a request used.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of all choices together.
        total_tokens: Tokens of prompt and choices together; at least the sum of both counts.
        cache_created_input_tokens: Prompt tokens written to the cache (Gradient).
        cache_creation: Prompt tokens written to the cache, by lifetime (Gradient).
        cache_read_input_tokens: Prompt tokens read from the cache (Gradient).
        prompt_tokens_details: Prompt tokens by kind (other servers).
        completion_tokens_details: Completion tokens by kind (other servers).

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

    def __post_init__(self) -> None:
        # Some servers leave the sum out, or report a sum that is too small.
        both = self.prompt_tokens + self.completion_tokens
        if self.total_tokens < both:  # noqa: PLR1730  # `max` takes longer, and every reply runs this line
            self.total_tokens = both


U = TypeVar("U", bound=Model)


def sum_usage(usage: U | None, more: U, *, less: U | None = None) -> U:
    """Add the usage of another request, field by field; a field that no request reported stays None.

    Args:
        usage: Usage of the other requests together, or None.
        more: Usage of this request.
        less: The usage that this request reported earlier and ``usage`` already includes, or None.
    """
    sums: dict[str, Any] = {}
    for name in more.__struct_fields__:
        values = [None if each is None else getattr(each, name) for each in (usage, more, less)]
        known = next((value for value in values if value is not None), None)
        if known is None:
            sums[name] = None
        elif isinstance(known, Model):
            details = cast("list[Model | None]", values)
            sums[name] = sum_usage(details[0], details[1] or type(known)(), less=details[2])
        else:
            sums[name] = (values[0] or 0) + (values[1] or 0) - (values[2] or 0)
    return type(more)(**sums)


def largest_usage(usage: U | None, more: U) -> U:
    """Combine two reports of one request's usage: the larger value of each count; None is less than any number.

    Some servers report the usage so far in each chunk. Others report the whole usage, and later zeros or a part of it.
    """
    if usage is None:
        return more
    old_counts, new_counts = msgspec.structs.astuple(usage), msgspec.structs.astuple(more)
    for old, new in zip(old_counts, new_counts, strict=True):
        if old != new and (type(old) is not int or type(new) is not int or old > new):
            break
    else:
        return more  # the usual case: usage that grows with each chunk
    return type(more)(
        **{
            name: new
            if old is None
            else old
            if new is None
            else largest_usage(old, new)
            if isinstance(old, Model)
            else max(old, new)
            for name, old, new in zip(more.__struct_fields__, old_counts, new_counts, strict=True)
        }
    )


class TopLogprob(Model, gc=False, kw_only=True):
    """One of the likeliest tokens at a position.

    Attributes:
        token: The token as text; a token may be part of a character.
        logprob: Natural log probability, at most 0; -9999.0 stands for "very unlikely", and for a number that the
            server left out.
        bytes: UTF-8 bytes of the token, or None if the token has no byte form.

    Source: ``ChatCompletionTokenLogprob.top_logprobs``, Gradient OpenAPI specification.
    """

    token: str = ""
    logprob: float = -9999.0
    bytes: list[int] | None = None


class TokenLogprob(Model, gc=False, kw_only=True):
    """One sampled token and its log probability.

    Attributes:
        token: The token as text; a token may be part of a character.
        logprob: Natural log probability, at most 0; -9999.0 stands for "very unlikely", and for a number that the
            server left out.
        bytes: UTF-8 bytes of the token, or None if the token has no byte form.
        top_logprobs: The likeliest tokens at this position, at most 20, likeliest first.

    Source: ``ChatCompletionTokenLogprob``, Gradient OpenAPI specification.
    """

    token: str = ""
    logprob: float = -9999.0
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class ChoiceLogprobs(Model, gc=False, kw_only=True):
    """Log probabilities of a choice's tokens; in a chunk, of that chunk's tokens only.

    Attributes:
        content: One entry for each token of the text, or None.
        refusal: One entry for each token of the refusal, or None.
    """

    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class Function(Model, gc=False, kw_only=True):
    """The function that the model calls.

    Attributes:
        name: Name of the function.
        arguments: JSON text as the model wrote it; the text may be cut short or not be JSON.
    """

    name: str = ""
    arguments: str = ""

    @property
    def parsed_arguments(self) -> Any:
        """The arguments as plain data, decoded at each access; None if they are not JSON."""
        return decode_arguments(self.arguments)


class FunctionDelta(Model, gc=False, kw_only=True):
    """A fragment of a function call.

    Attributes:
        name: Name of the function, usually in the first fragment only.
        arguments: The next piece of the JSON text of the arguments.
    """

    name: str | None = None
    arguments: str | None = None


class ToolCall(Model, gc=False, kw_only=True):
    """One finished tool call of a message.

    Attributes:
        id: Id to give as ``tool_call_id`` with the result; empty if the server gave none.
        type: ``function``, or another kind of tool.
        function: Name and arguments; empty for tools of another kind.
        custom: Payload of a call of type ``custom``, unchanged.
        extra_content: Data that some servers require back with the call, unchanged.
    """

    id: str = ""
    type: str = "function"
    function: Function = msgspec.field(default_factory=Function)
    custom: AnyJSON = None
    extra_content: AnyJSON = None


class ToolCallDelta(Model, gc=False, kw_only=True):
    """A fragment of a tool call.

    Attributes:
        index: Index of the call among the choice's calls, or None if the server gave none.
        id: Id of the call, usually in the first fragment only.
        type: Kind of the call, usually in the first fragment only.
        function: Name and the next piece of the arguments.
        custom: Payload of a call of type ``custom``, unchanged.
        extra_content: Data that some servers require back with the call, unchanged.
    """

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionDelta = msgspec.field(default_factory=FunctionDelta)
    custom: AnyJSON = None
    extra_content: AnyJSON = None


def normalize_message(message: ChatCompletionMessage | ChoiceDelta) -> None:
    """Move reasoning to the field ``reasoning_content``, and replace an empty list of tool calls by None."""
    if message._reasoning is not None:
        if message.reasoning_content is None:
            message.reasoning_content = message._reasoning
        message._reasoning = None
    if not message.tool_calls:
        message.tool_calls = None


class ChatCompletionMessage(Model, gc=False, kw_only=True):
    """The model's message. You can pass it back in the next request unchanged.

    Attributes:
        role: ``assistant``.
        content: The text, or None beside tool calls and refusals.
        refusal: The model's refusal, or None.
        reasoning_content: The model's reasoning, if the server sends it (some name the field ``reasoning``).
        tool_calls: Calls that the model requests, or None if there are none.
        function_call: The older form of a single call.
        annotations: Citations and similar data, unchanged.
        audio: Spoken reply, unchanged.
        reasoning_details: Reasoning in the form that some servers require in the next request, unchanged. In a
            completion, the fragments of one entry are joined.
        extra_content: Data that some servers require in the next request, unchanged.
        content_parts: The content as a list of parts, if the server sent a list; ``content`` has the text.
        images: Pictures that the model made, unchanged.
    """

    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    annotations: list[AnyJSON] | None = None
    audio: AnyJSON = None
    reasoning_details: list[AnyJSON] | None = None
    extra_content: AnyJSON = None
    content_parts: list[AnyJSON] | None = None
    images: list[AnyJSON] | None = None
    _reasoning: str | None = msgspec.field(default=None, name="reasoning")

    def normalize(self) -> None:
        """See `normalize_message`."""
        normalize_message(self)


class ChoiceDelta(Model, gc=False, kw_only=True):
    """The part of a choice's message that one chunk holds.

    Attributes:
        content: The next piece of the text.
        role: Role of the message, usually in the first chunk only.
        tool_calls: Fragments of tool calls, or None if there are none.
        reasoning_content: The next piece of the reasoning (some servers name the field ``reasoning``).
        refusal: The next piece of the refusal.
        function_call: A fragment of the older form of a single call.
        annotations: Citations and similar data, unchanged.
        audio: The next piece of a spoken reply, unchanged.
        reasoning_details: Reasoning in the form that some servers require in the next request, unchanged. In a
            completion, the fragments of one entry are joined.
        extra_content: Data that some servers require in the next request, unchanged.
        content_parts: The content as a list of parts, if the server sent a list; ``content`` has the text.
        images: Pictures that the model made, unchanged.
    """

    content: str | None = None
    role: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    function_call: FunctionDelta | None = None
    annotations: list[AnyJSON] | None = None
    audio: AnyJSON = None
    reasoning_details: list[AnyJSON] | None = None
    extra_content: AnyJSON = None
    content_parts: list[AnyJSON] | None = None
    images: list[AnyJSON] | None = None
    _reasoning: str | None = msgspec.field(default=None, name="reasoning")

    def normalize(self) -> None:
        """See `normalize_message`."""
        normalize_message(self)


TEXT_FIELDS = ("content", "reasoning_content", "refusal")
"""Fields of a delta whose pieces are text, so that a surrogate pair may be cut between two pieces."""
ANSWER_FIELDS = (
    *TEXT_FIELDS, "tool_calls", "function_call", "audio", "images", "content_parts", "reasoning_details",
)  # fmt: skip
"""Fields of a message or delta that are a part of the answer; a role alone, for example, is not.

They show that the model is at work, and that the text of a choice is where it should be.
"""


class GroqExtras(Model, gc=False, kw_only=True):
    """The field ``x_groq`` of Groq's servers.

    The types make the typed decoder refuse usage and an error in it, so that the tolerant path handles them.
    """

    usage: None = None
    error: None = None


class Choice(Model, gc=False, kw_only=True):
    """One of the n answers.

    Attributes:
        index: Index of the choice, from 0.
        message: The model's message.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``content_filter`` or another; None while the
            choice is unfinished, and if the server never sends a finish_reason.
        logprobs: Log probabilities of the tokens, if the request asked for them.
    """

    index: int = 0
    message: ChatCompletionMessage = msgspec.field(default_factory=ChatCompletionMessage)
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None
    # The typed decoder refuses usage in a choice, so that the tolerant path moves it to the completion.
    _usage: None = msgspec.field(default=None, name="usage")


class ChunkChoice(Model, gc=False, kw_only=True):
    """One choice in a chunk.

    Attributes:
        index: Index of the choice, from 0.
        delta: The next part of the message.
        finish_reason: Why the choice ended; in the last chunk of the choice.
        logprobs: Log probabilities of this chunk's tokens.
    """

    index: int = 0
    delta: ChoiceDelta = msgspec.field(default_factory=ChoiceDelta)
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None
    _usage: None = msgspec.field(default=None, name="usage")  # see `Choice`


class ChatCompletion(ReceivedReply, Model, gc=False, kw_only=True):
    """A whole completion.

    Attributes:
        id: Id of the completion; empty if the server gave none.
        choices: The choices, ordered by index.
        created: Unix time in seconds; 0 if the server gave none.
        model: Model that answered; empty if the server did not name it.
        object: ``chat.completion``.
        usage: Tokens used, or None if the server did not report them.
        system_fingerprint: Configuration of the server, or None.
        service_tier: Tier that served the request, or None.
        retrieval: Passages that an agent retrieved, unchanged.
        functions: Functions that an agent called, unchanged.
        guardrails: Guardrails that were triggered, unchanged.
        request_id: Id of the request; set by the session.
        rate_limits: Rate limits in the reply's headers; set by the session.
        attempts: Number of requests that were made; set by the session.
        headers: Headers of the reply; empty if the completion did not come from a server.
        body: The reply as plain JSON, with all fields of the server; see `Received.body`.

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
    retrieval: AnyJSON = None
    functions: AnyJSON = None
    guardrails: AnyJSON = None
    request_id: str | None = msgspec.field(default=None, name="@request_id")
    rate_limits: RateLimits | None = msgspec.field(default=None, name="@rate_limits")
    attempts: int = msgspec.field(default=1, name="@attempts")
    _error: AnyJSON = msgspec.field(default=None, name="error")
    _x_groq: GroqExtras | None = msgspec.field(default=None, name="x_groq")

    @property
    def _request_id(self) -> str | None:
        """The name of ``request_id`` in other clients."""
        return self.request_id


class ChatCompletionChunk(Received, Model, gc=False, kw_only=True):
    """One event of a stream.

    Attributes:
        id: Id of the completion, which most servers repeat in all chunks; empty if the server gave none.
        choices: The choices that the chunk adds to; empty in a chunk that only reports usage.
        created: Unix time in seconds; 0 if the server gave none.
        model: Model that answers; empty if the server did not name it.
        object: ``chat.completion.chunk``.
        usage: Tokens used so far or in all, usually in the last chunk only.
        system_fingerprint: Configuration of the server, or None.
        service_tier: Tier that serves the request, or None.
        retrieval: Passages that an agent retrieved, unchanged.
        functions: Functions that an agent called, unchanged.
        guardrails: Guardrails that were triggered, unchanged.
        body: The event as plain JSON, with all fields of the server, if ``keep_body=True``; see `Received.body`.

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
    retrieval: AnyJSON = None
    functions: AnyJSON = None
    guardrails: AnyJSON = None
    _error: AnyJSON = msgspec.field(default=None, name="error")
    _x_groq: GroqExtras | None = msgspec.field(default=None, name="x_groq")

    if not TYPE_CHECKING:
        type = Hint("this is a chunk; iterate over stream.events() for events")


REPLY_FIELDS = ("retrieval", "functions", "guardrails")
"""Fields of a reply that belong to no choice and come in pieces, in any chunk."""

TextField: TypeAlias = Literal["content", "reasoning_content", "arguments"]
MakeChunks: TypeAlias = Callable[[Iterable[str], Iterable[int]], list[ChatCompletionChunk]]


class TextBatch(Sequence[ChatCompletionChunk]):
    """Chunks that differ in their text alone, or in text and choice; each chunk is made when it is read.

    Most of a stream consists of such chunks. Code that reads `texts` gets the text without making chunk objects.

    Args:
        texts: The text of each chunk.
        field: The place of the text: a field of the delta, or the arguments of its only tool call.
        choice: Index of the choice that all chunks belong to, or a list with the index for each chunk.
        make: Makes chunks from texts and indices of choices.

    Attributes:
        choice: Index of the choice that all chunks belong to; -1 if they belong to several.
        choices: Index of the choice for each chunk; None if all chunks belong to one choice.
    """

    # Slots save time, because a batch is made for each read.
    __slots__ = ("_make", "choice", "choices", "field", "texts")

    def __init__(
        self, texts: list[str], *, field: TextField, choice: int | list[int], make: MakeChunks
    ) -> None:
        self.texts = texts
        self.field: TextField = field
        self.choice: int = choice if isinstance(choice, int) else -1
        self.choices: list[int] | None = None if isinstance(choice, int) else choice
        self._make = make

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[ChatCompletionChunk]:
        # One call makes all chunks: a call for each chunk would take longer than making the chunk.
        return iter(self._make(self.texts, repeat(self.choice) if self.choices is None else self.choices))

    @overload
    def __getitem__(self, index: int) -> ChatCompletionChunk: ...
    @overload
    def __getitem__(self, index: slice) -> TextBatch: ...
    def __getitem__(self, index: int | slice) -> ChatCompletionChunk | TextBatch:
        choices = self.choices
        if isinstance(index, slice):
            choice = self.choice if choices is None else choices[index]
            return TextBatch(self.texts[index], field=self.field, choice=choice, make=self._make)
        return self._make([self.texts[index]], [self.choice if choices is None else choices[index]])[0]


class ModelInfo(Model, gc=False, kw_only=True):
    """A model that the key may use.

    Attributes:
        id: Name to give as ``model``.
        object: ``model``.
        created: Unix time in seconds; 0 if the server gave none.
        owned_by: Maker of the model.
    """

    id: str = ""
    object: str = "model"
    created: int = 0
    owned_by: str = ""


class ModelList(Model, gc=False, kw_only=True):
    """The models that the key may use; iterate over it for each model.

    Attributes:
        data: The models.
        object: ``list``.
    """

    data: list[ModelInfo] = []
    object: str = "list"

    if not TYPE_CHECKING:
        models = Hint("write data")

    def __iter__(self) -> Iterator[ModelInfo]:
        return iter(self.data)
