"""What a request may hold, once: keyword arguments, validation and documentation read the same types.

Source of every limit: the reference of "Create chat completion", the Gradient OpenAPI specification and
DigitalOcean's documentation. Values of None are sent as null, as they are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required, TypeAlias, TypedDict

from msgspec import Meta

if TYPE_CHECKING:
    from .messages import ChatCompletionMessage

__all__ = [
    "AgentCompletionCreate",
    "AgentCompletionParams",
    "AgentFanOut",
    "AssistantMessage",
    "CacheControl",
    "ChatCompletionCreate",
    "ChatCompletionParams",
    "ChatFanOut",
    "ContentPart",
    "DeveloperMessage",
    "FunctionCall",
    "FunctionDefinition",
    "FunctionMessage",
    "ImagePart",
    "ImageURL",
    "MessageParam",
    "NamedFunction",
    "NamedToolChoice",
    "RequestOptions",
    "StreamOptions",
    "SystemMessage",
    "TextPart",
    "ToolCallParam",
    "ToolMessage",
    "ToolParam",
    "UserMessage",
    "VideoPart",
    "VideoURL",
]


class CacheControl(TypedDict, total=False):
    """Asks for the prompt up to this part to be cached: ``ttl`` is ``5m`` or ``1h``."""

    type: Required[Literal["ephemeral"]]
    ttl: Literal["5m", "1h"]


class TextPart(TypedDict, total=False):
    """A part of a message that is text."""

    type: Required[Literal["text"]]
    text: Required[str]
    cache_control: CacheControl


class ImageURL(TypedDict, total=False):
    """Where an image is: a URL or a data URL; ``detail`` is ``auto``, ``low`` or ``high``."""

    url: Required[str]
    detail: str


class ImagePart(TypedDict):
    """A part of a user's message that is an image."""

    type: Literal["image_url"]
    image_url: ImageURL


class VideoURL(TypedDict):
    """Where a video is."""

    url: str


class VideoPart(TypedDict):
    """A part of a user's message that is a video."""

    type: Literal["video_url"]
    video_url: VideoURL


ContentPart: TypeAlias = TextPart | ImagePart | VideoPart
_Text: TypeAlias = str | TextPart | Sequence[str | TextPart]


class SystemMessage(TypedDict):
    """Instructions of the application."""

    role: Literal["system"]
    content: _Text


class DeveloperMessage(TypedDict):
    """Instructions of the application, for models that name them so."""

    role: Literal["developer"]
    content: _Text


class UserMessage(TypedDict, total=False):
    """What the user says, with images and videos."""

    role: Required[Literal["user"]]
    content: Required[str | ContentPart | Sequence[str | ContentPart]]
    name: str


class FunctionCall(TypedDict):
    """Name and JSON arguments of a call."""

    name: str
    arguments: str


class ToolCallParam(TypedDict, total=False):
    """A tool call of an earlier reply."""

    id: Required[str]
    type: Required[str]
    function: FunctionCall


class AssistantMessage(TypedDict, total=False):
    """An earlier reply; ``completion.choices[0].message`` serves as it is."""

    role: Required[Literal["assistant"]]
    content: _Text | None
    refusal: str | None
    reasoning_content: str | None
    tool_calls: Sequence[ToolCallParam]
    function_call: FunctionCall | None


class ToolMessage(TypedDict):
    """The result of a tool call."""

    role: Literal["tool"]
    content: _Text
    tool_call_id: str


class FunctionMessage(TypedDict):
    """The result of a call of the older form."""

    role: Literal["function"]
    content: str | None
    name: str


MessageParam: TypeAlias = (
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
)


class FunctionDefinition(TypedDict, total=False):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: Required[Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]]
    description: str | None
    parameters: Mapping[str, Any] | None
    strict: bool | None


class ToolParam(TypedDict, total=False):
    """A tool the model may call."""

    type: Required[str]
    function: FunctionDefinition


class NamedFunction(TypedDict):
    """A function by its name."""

    name: str


class NamedToolChoice(TypedDict):
    """Makes the model call this function."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(TypedDict, total=False):
    """Options of a stream: ``include_usage`` asks for a last chunk with the usage."""

    include_usage: bool


# Messages are checked one by one by `decoding`, since a list may mix dictionaries and replies.
# Tool lists, too, may be any iterable for the checker; at run time they are lists by then.
if TYPE_CHECKING:
    Messages: TypeAlias = Iterable[MessageParam | ChatCompletionMessage | Mapping[str, Any]]
    Tools: TypeAlias = Iterable[ToolParam | Mapping[str, Any]]
    ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedToolChoice | Mapping[str, Any]
    Stop: TypeAlias = str | Sequence[str]
    LogitBias: TypeAlias = Mapping[str, float] | Mapping[int, float]
else:
    Messages = Any
    Tools = list[ToolParam]
    ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice
    Stop = str | Annotated[list[str], Meta(min_length=1, max_length=4)]
    LogitBias = dict[str | int, Annotated[float, Meta(ge=-100, le=100)]]


class _Params(TypedDict, total=False):
    """Parameters that models and agents share."""

    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None
    """Lowers the odds of tokens by how often they came; -2.0 to 2.0."""
    logit_bias: LogitBias | None
    """Token id to bias, -100 to 100."""
    logprobs: bool | None
    """Return log probabilities of the tokens."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None
    """Most tokens to generate, reasoning included; at least 1."""
    max_tokens: Annotated[int, Meta(ge=1)] | None
    """Most tokens to generate; at least 1."""
    metadata: (
        Annotated[
            dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16),
        ]
        | None
    )
    """At most 16 pairs of strings; keys of at most 64 characters, values of at most 512."""
    parallel_tool_calls: bool | None
    """Whether the model may make several calls at once."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None
    """Lowers the odds of tokens that came before; -2.0 to 2.0."""
    prompt_cache_key: str | None
    """Groups requests that share a prefix, for the prompt cache."""
    prompt_cache_retention: str | None
    """How long the prompt cache keeps the prefix."""
    reasoning: dict[str, Any] | None
    """Reasoning settings, as the model's documentation gives them."""
    reasoning_effort: str | None
    """``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh`` or ``max``."""
    response_format: dict[str, Any] | None
    """``{"type": "json_object"}`` or a JSON schema."""
    seed: int | None
    """Asks for repeatable sampling."""
    stop: Stop | None
    """One string, or 1 to 4 strings, at which the text ends."""
    stream_options: StreamOptions | None
    """Only with ``stream=True``."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None
    """Randomness of sampling; 0 to 2."""
    tool_choice: ToolChoice | None
    """``none``, ``auto``, ``required``, or a named function."""
    tools: Tools | None
    """Functions the model may call; names of at most 64 of a-z A-Z 0-9 _ -."""
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None
    """Likeliest tokens to return at each position; 0 to 20, only with ``logprobs=True``."""
    top_p: Annotated[float, Meta(ge=0, le=1)] | None
    """Share of the probability to sample from; 0 to 1."""
    user: str | None
    """Names the end user, for abuse reports."""


class _Choices(TypedDict, total=False):
    """What `fan_out` has another use for."""

    n: Annotated[int, Meta(ge=1, le=128)] | None
    """How many choices to generate; 1 to 128. Some models ignore or refuse more than one."""


class _ChatParams(_Params, total=False):
    """Parameters of models."""

    messages: Required[Messages]
    """The conversation so far; at least one message."""
    model: Required[Annotated[str, Meta(min_length=1)]]
    """Name of the model."""


class ChatCompletionParams(_ChatParams, _Choices, total=False):
    """Parameters of `client.chat.completions`."""


class _AgentParams(_Params, total=False):
    """Parameters of agents."""

    messages: Required[Messages]
    """The conversation so far; at least one message."""
    model: str | None
    """Ignored by agents."""
    k: Annotated[int, Meta(ge=0)] | None
    """How many passages to retrieve."""
    kb_filters: list[Any] | dict[str, Any] | None
    """Filters on the knowledge bases."""
    filter_kb_content_by_query_metadata: bool | None
    """Filter passages by metadata found in the query."""
    instruction_override: str | None
    """Replaces the agent's instruction for this request."""
    include_functions_info: bool | None
    """Tell in the reply which functions were called."""
    include_retrieval_info: bool | None
    """Tell in the reply what was retrieved."""
    include_guardrails_info: bool | None
    """Tell in the reply which guardrails were triggered."""
    provide_citations: bool | None
    """Cite sources."""
    retrieval_method: str | None
    """``rewrite``, ``step_back``, ``sub_queries`` or ``none``."""


class AgentCompletionParams(_AgentParams, _Choices, total=False):
    """Parameters of `client.agents.chat.completions`; the agent's own model answers."""


class RequestOptions(TypedDict, total=False):
    """How to send one request; none of it is part of the body's parameters."""

    extra_headers: Mapping[str, Any] | None
    """More headers; they win over everything, ``Authorization`` included."""
    extra_query: Mapping[str, Any] | None
    """More parameters of the URL's query."""
    extra_body: Mapping[str, Any] | None
    """More fields of the body, unchecked; they win over parameters of the same name."""
    timeout: Any
    """A `Timeout`, seconds, or None; the client's own if absent."""


class ChatCompletionCreate(ChatCompletionParams, RequestOptions, total=False):
    """Keyword arguments of `client.chat.completions.create` and `stream`."""


class AgentCompletionCreate(AgentCompletionParams, RequestOptions, total=False):
    """Keyword arguments of `client.agents.chat.completions.create` and `stream`."""


class ChatFanOut(_ChatParams, RequestOptions, total=False):
    """Keyword arguments that `client.chat.completions.fan_out` sends with each request."""


class AgentFanOut(_AgentParams, RequestOptions, total=False):
    """Keyword arguments that `client.agents.chat.completions.fan_out` sends with each request."""
