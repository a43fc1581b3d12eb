"""The parameters of a request, defined once for keyword arguments, validation and documentation.

Source of every limit: the reference of "Create chat completion", the Gradient OpenAPI specification and
DigitalOcean's documentation. A value of None is sent as null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required, TypeAlias, TypedDict, final

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from .messages import ChatCompletionMessage

    # Type checkers accept an instance of a subclass of Any for every parameter, as in `create(temperature=temperature)` where a
    # function has declared `temperature: float | NotGiven`.
    _Anything = Any
else:
    _Anything = object


@final
class NotGiven(_Anything):  # type: ignore[misc]  # mypy reports every subclass of Any
    """The type of `NOT_GIVEN` and `omit`: an argument with this value is left out of the request."""

    __slots__ = ()

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"

    def __reduce__(self) -> str:
        return "NOT_GIVEN"


_NOTHING = frozenset({"NotGiven", "Omit"})


def is_given(argument: object) -> bool:
    """Whether an argument is given: `NOT_GIVEN`, of this or another package, means that it is not."""
    for kind in type(argument).__mro__:  # noqa: SIM110  # a generator takes twice as long
        if kind.__name__ in _NOTHING:
            return False
    return True


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are given."""
    return {name: value for name, value in arguments.items() if is_given(value)}


NOT_GIVEN = NotGiven()
omit = NOT_GIVEN


class CacheControl(TypedDict, total=False):
    """Asks the server to cache the prompt up to this part; ``ttl`` is ``5m`` or ``1h``."""

    type: Required[Literal["ephemeral"]]
    ttl: Literal["5m", "1h"]


class TextPart(TypedDict, total=False):
    """A text part of a message."""

    type: Required[Literal["text"]]
    text: Required[str]
    cache_control: CacheControl


class ImageURL(TypedDict, total=False):
    """Location of an image: a URL or a data URL; ``detail`` is ``auto``, ``low`` or ``high``."""

    url: Required[str]
    detail: str


class ImagePart(TypedDict):
    """An image in a user's message."""

    type: Literal["image_url"]
    image_url: ImageURL


class VideoURL(TypedDict):
    """Location of a video."""

    url: str


class VideoPart(TypedDict):
    """A video in a user's message."""

    type: Literal["video_url"]
    video_url: VideoURL


class InputAudio(TypedDict):
    """Sound as base64; ``format`` is ``wav`` or ``mp3``."""

    data: str
    format: str


class AudioPart(TypedDict):
    """Sound in a user's message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class FileContent(TypedDict, total=False):
    """A file: the id of an uploaded file, or the data as base64 with a name."""

    file_id: str
    file_data: str
    filename: str


class FilePart(TypedDict):
    """A file in a user's message."""

    type: Literal["file"]
    file: FileContent


class RefusalPart(TypedDict):
    """A refusal in an earlier reply."""

    type: Literal["refusal"]
    refusal: str


ContentPart: TypeAlias = TextPart | ImagePart | VideoPart | AudioPart | FilePart
_Text: TypeAlias = str | TextPart | Sequence[str | TextPart]


class SystemMessage(TypedDict, total=False):
    """Instructions from the application."""

    role: Required[Literal["system"]]
    content: Required[_Text]
    name: str


class DeveloperMessage(TypedDict, total=False):
    """Instructions from the application, for models that use the role ``developer``."""

    role: Required[Literal["developer"]]
    content: Required[_Text]
    name: str


class UserMessage(TypedDict, total=False):
    """A message of the user, which may contain images, videos, sound and files."""

    role: Required[Literal["user"]]
    content: Required[str | ContentPart | Sequence[str | ContentPart]]
    name: str


class FunctionCall(TypedDict):
    """Name of a function, and JSON text of the arguments."""

    name: str
    arguments: str


class CustomCall(TypedDict):
    """Name of a custom tool, and the text for it."""

    name: str
    input: str


class ToolCallParam(TypedDict, total=False):
    """A tool call in an earlier reply, of a function or a custom tool."""

    id: Required[str]
    type: Required[str]
    function: FunctionCall
    custom: CustomCall


class AudioReference(TypedDict):
    """Id of the sound in an earlier reply."""

    id: str


class AssistantMessage(TypedDict, total=False):
    """An earlier reply; you can pass ``completion.choices[0].message`` unchanged."""

    role: Required[Literal["assistant"]]
    content: str | TextPart | RefusalPart | Sequence[str | TextPart | RefusalPart] | None
    name: str
    refusal: str | None
    reasoning_content: str | None
    tool_calls: Sequence[ToolCallParam]
    function_call: FunctionCall | None
    audio: AudioReference | None


class ToolMessage(TypedDict):
    """The result of a tool call."""

    role: Literal["tool"]
    content: _Text
    tool_call_id: str


class FunctionMessage(TypedDict):
    """The result of a function call in the older form."""

    role: Literal["function"]
    content: str | None
    name: str


MessageParam: TypeAlias = (
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
)


class FunctionDefinition(TypedDict, total=False):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: Required[Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]]
    description: str | None
    parameters: Mapping[str, Any] | None
    strict: bool | None


class CustomDefinition(TypedDict, total=False):
    """A tool that takes any text; ``format`` may restrict the text by a grammar."""

    name: Required[Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]]
    description: str | None
    format: Mapping[str, Any] | None


class ToolParam(TypedDict, total=False):
    """A tool that the model may call: a function, or a custom tool."""

    type: Required[str]
    function: FunctionDefinition
    custom: CustomDefinition


class NamedFunction(TypedDict):
    """Name of a function or of a custom tool."""

    name: str


class NamedToolChoice(TypedDict):
    """Requires the model to call this function."""

    type: Literal["function"]
    function: NamedFunction


class NamedCustomToolChoice(TypedDict):
    """Requires the model to call this custom tool."""

    type: Literal["custom"]
    custom: NamedFunction


class AllowedTools(TypedDict):
    """The tools that the model may call; ``mode`` is ``auto`` or ``required``."""

    mode: str
    tools: Sequence[Mapping[str, Any]]


class AllowedToolsChoice(TypedDict):
    """Restricts the model to some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class _FunctionChoice(Struct, tag_field="type", tag="function"):
    function: NamedFunction


class _CustomChoice(Struct, tag_field="type", tag="custom"):
    custom: NamedFunction


class _AllowedChoice(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


class StreamOptions(TypedDict, total=False):
    """Options of a stream.

    ``include_usage`` asks for a last chunk with the usage. ``include_obfuscation=False`` asks for chunks without padding,
    which hides the lengths of texts from an observer of the network.
    """

    include_usage: bool
    include_obfuscation: bool


# A type checker accepts more than `msgspec.convert` can check. Messages may mix dictionaries and replies, so `decoding`
# checks them one by one. Tools may be any iterable; `decoding` has made a list of them before the conversion. Parameters
# that only other servers document have no checks besides their type.
if TYPE_CHECKING:
    Messages: TypeAlias = Iterable[MessageParam | ChatCompletionMessage | Mapping[str, Any]]
    Tools: TypeAlias = Iterable[ToolParam | Mapping[str, Any] | Callable[..., Any]]
    ToolChoice: TypeAlias = (
        Literal["none", "auto", "required"]
        | NamedToolChoice
        | NamedCustomToolChoice
        | AllowedToolsChoice
        | Mapping[str, Any]
    )
    Functions: TypeAlias = Iterable[FunctionDefinition | Mapping[str, Any]]
    FunctionChoice: TypeAlias = Literal["none", "auto"] | NamedFunction | Mapping[str, Any]
    Modalities: TypeAlias = Iterable[str]
    Stop: TypeAlias = str | Sequence[str]
    LogitBias: TypeAlias = Mapping[str, float] | Mapping[int, float]
else:
    Messages = Any
    Tools = list[ToolParam]
    # msgspec cannot decode a union of several TypedDicts, but it can decode a union of Structs that have a tag.
    ToolChoice = Literal["none", "auto", "required"] | _FunctionChoice | _CustomChoice | _AllowedChoice
    Functions = list[dict[str, Any]]
    FunctionChoice = str | dict[str, Any]
    Modalities = list[str]
    Stop = str | Annotated[list[str], Meta(min_length=1, max_length=4)]
    LogitBias = dict[str | int, Annotated[float, Meta(ge=-100, le=100)]]


class _Params(TypedDict, total=False):
    """Parameters of models and agents, without those that some methods take as their own arguments."""

    audio: Mapping[str, Any] | None
    """Voice and format of a spoken reply, with ``modalities=["text", "audio"]``."""
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None
    """Makes tokens less likely the more often they have occurred; -2.0 to 2.0."""
    function_call: FunctionChoice | None
    """Older form of ``tool_choice``."""
    functions: Functions | None
    """Older form of ``tools``."""
    logit_bias: LogitBias | None
    """Bias for each token id; -100 to 100."""
    logprobs: bool | None
    """Whether to return log probabilities of the tokens."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None
    """Maximum number of tokens to generate, reasoning included; at least 1."""
    max_tokens: Annotated[int, Meta(ge=1)] | None
    """Maximum number of tokens to generate; at least 1."""
    metadata: (
        Annotated[
            Mapping[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16),
        ]
        | None
    )
    """Up to 16 pairs of strings; keys of up to 64 characters, values of up to 512."""
    modalities: Modalities | None
    """Kinds of output: ``text``, ``audio``."""
    moderation: Mapping[str, Any] | None
    """Settings of the server's moderation."""
    parallel_tool_calls: bool | None
    """Whether the model may request several calls at once."""
    prediction: Mapping[str, Any] | None
    """Text that most of the reply is expected to repeat, such as a file that is being edited."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None
    """Makes tokens that have occurred less likely; -2.0 to 2.0."""
    prompt_cache_key: str | None
    """Groups requests with a common prefix for the prompt cache."""
    prompt_cache_options: Mapping[str, Any] | None
    """Settings of the prompt cache."""
    prompt_cache_retention: str | None
    """How long the prompt cache keeps the prefix."""
    reasoning: Mapping[str, Any] | None
    """Reasoning settings; see the documentation of the model."""
    reasoning_effort: str | None
    """``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh`` or ``max``."""
    safety_identifier: str | None
    """Identifies the end user, for the detection of abuse."""
    seed: int | None
    """Asks for repeatable sampling."""
    service_tier: str | None
    """Tier that processes the request: ``auto``, ``default``, ``flex``, ``priority`` or another."""
    stop: Stop | None
    """One string, or 1 to 4 strings, that end the text."""
    store: bool | None
    """Whether the server may store the completion."""
    stream_options: StreamOptions | None
    """Only with ``stream=True``."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None
    """Randomness of sampling; 0 to 2."""
    tool_choice: ToolChoice | None
    """``none``, ``auto``, ``required``, a named function or custom tool, or some allowed tools."""
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None
    """Number of likeliest tokens to return at each position; 0 to 20, only with ``logprobs=True``."""
    top_p: Annotated[float, Meta(ge=0, le=1)] | None
    """Fraction of the probability mass to sample from; 0 to 1."""
    user: str | None
    """Identifies the end user in abuse reports."""
    verbosity: str | None
    """Length of the reply: ``low``, ``medium`` or ``high``."""
    web_search_options: Mapping[str, Any] | None
    """Settings of the server's web search."""


class _Tools(TypedDict, total=False):
    """The parameter that `run` takes as its own argument."""

    tools: Tools | None
    """Functions, tools made by `tool`, or dictionaries; names have 1 to 64 characters of a-z A-Z 0-9 _ -."""


class _Choices(TypedDict, total=False):
    """The parameter ``n``, which `fan_out` takes as its own argument."""

    n: Annotated[int, Meta(ge=1, le=128)] | None
    """Number of choices to generate; 1 to 128. Some models ignore or refuse more than one."""


class _Format(TypedDict, total=False):
    """The parameter that methods for typed answers take as their own argument."""

    response_format: Mapping[str, Any] | None
    """``{"type": "json_object"}`` or a JSON schema."""


class _OneChoice(TypedDict, total=False):
    """The parameter ``n`` where there can be no more than one choice."""

    n: Literal[1] | None
    """Number of choices; 1."""


class _ModelsOnly(TypedDict, total=False):
    """Optional parameters that only models have."""

    routing_preference: str | None
    """What the inference router prefers: ``balanced``, ``budget`` or ``quality``."""


class _AgentsOnly(TypedDict, total=False):
    """Optional parameters that only agents have."""

    k: Annotated[int, Meta(ge=0)] | None
    """Number of passages to retrieve."""
    kb_filters: Sequence[Any] | Mapping[str, Any] | None
    """Filters on the knowledge bases."""
    filter_kb_content_by_query_metadata: bool | None
    """Whether to filter passages by metadata in the query."""
    instruction_override: str | None
    """Replaces the agent's instruction for this request."""
    include_functions_info: bool | None
    """Whether the reply lists the functions that were called."""
    include_retrieval_info: bool | None
    """Whether the reply holds the passages that were retrieved."""
    include_guardrails_info: bool | None
    """Whether the reply lists the guardrails that were triggered."""
    provide_citations: bool | None
    """Whether to cite sources."""
    retrieval_method: str | None
    """``rewrite``, ``step_back``, ``sub_queries`` or ``none``."""


class _OfModels(_Params, _ModelsOnly, total=False):
    """Parameters of models."""

    messages: Required[Messages]
    """The conversation so far; at least one message."""
    model: Required[Annotated[str, Meta(min_length=1)]]
    """Name of the model, ``inference-router``, or ``router:NAME``."""


class ChatCompletionParams(_OfModels, _Tools, _Choices, _Format, total=False):
    """Parameters of `client.chat.completions`."""


class _OfAgents(_Params, _AgentsOnly, total=False):
    """Parameters of agents."""

    messages: Required[Messages]
    """The conversation so far; at least one message."""
    model: str | None
    """Ignored by agents."""


class AgentCompletionParams(_OfAgents, _Tools, _Choices, _Format, total=False):
    """Parameters of `client.agents.chat.completions`; the agent's own model answers."""


class RequestOptions(TypedDict, total=False):
    """Options for sending one request; they are not parameters of the API."""

    extra_headers: Mapping[str, Any] | None
    """Additional headers; they override all other headers, including ``Authorization``."""
    extra_query: Mapping[str, Any] | None
    """Additional parameters for the query of the URL."""
    extra_body: Mapping[str, Any] | None
    """Additional fields for the body, unchecked; they override parameters of the same name."""
    timeout: Any
    """A `Timeout`, seconds, or None; the default is the timeout of the client."""


class ChatCompletionCreate(ChatCompletionParams, RequestOptions, total=False):
    """Keyword arguments of `client.chat.completions.create`."""


class AgentCompletionCreate(AgentCompletionParams, RequestOptions, total=False):
    """Keyword arguments of `client.agents.chat.completions.create`."""


class ChatCompletionParse(_OfModels, _Tools, _Choices, RequestOptions, total=False):
    """Keyword arguments of `client.chat.completions.parse` and `stream` besides their own."""


class AgentCompletionParse(_OfAgents, _Tools, _Choices, RequestOptions, total=False):
    """Keyword arguments of `client.agents.chat.completions.parse` and `stream` besides their own."""


class ChatFanOut(_OfModels, _Tools, RequestOptions, total=False):
    """Keyword arguments that `client.chat.completions.fan_out` sends with each request, besides ``response_format``."""


class AgentFanOut(_OfAgents, _Tools, RequestOptions, total=False):
    """Keyword arguments that `client.agents.chat.completions.fan_out` sends with each request, besides ``response_format``."""


class ChatRun(_OfModels, _OneChoice, RequestOptions, total=False):
    """Keyword arguments that `client.chat.completions.run` sends with each request."""


class AgentRun(_OfAgents, _OneChoice, RequestOptions, total=False):
    """Keyword arguments that `client.agents.chat.completions.run` sends with each request."""


class _OfEither(_Params, _ModelsOnly, _AgentsOnly, _Tools, _Choices, RequestOptions, total=False):
    """Keyword arguments of methods that models and agents share."""

    model: str | None
    """Name of the model; ignored by agents."""


class ResponseParse(_OfEither, total=False):
    """Keyword arguments of `parse` of `with_raw_response` besides its own."""

    messages: Required[Messages]
    """The conversation so far; at least one message."""


class ResponseCreate(ResponseParse, _Format, total=False):
    """Keyword arguments of `create` of `with_raw_response` and `with_streaming_response`."""


class MapDefaults(_OfEither, total=False):
    """Keyword arguments that ``map`` gives to requests without them, besides ``response_format``."""

    messages: Messages
    """The conversation so far; at least one message."""
