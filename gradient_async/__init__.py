"""Async streaming client for DigitalOcean Gradient chat completions.

    from gradient_async import AsyncGradient

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .client.core import AsyncGradient
    from .client.core import AsyncGradient as AsyncClient
    from .client.response import APIResponse
    from .client.response import APIResponse as AsyncAPIResponse
    from .config import (
        DEFAULT_MAX_RETRIES,
        DEFAULT_TIMEOUT,
        Limits,
        Retry,
        Timeout,
    )
    from .errors import (
        APIConnectionError,
        APIError,
        APIResponseValidationError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        ConfigurationError,
        ConflictError,
        FanOutError,
        GatewayTimeoutError,
        GradientError,
        InternalServerError,
        InvalidRequestError,
        NotFoundError,
        OverloadedError,
        PaymentRequiredError,
        PermissionDeniedError,
        Phase,
        QuotaExceededError,
        RateLimitError,
        RequestInfo,
        RequestTimeoutError,
        RequestTooLargeError,
        ResponseInfo,
        StreamError,
        StreamInterruptedError,
        StreamLimitError,
        StreamProtocolError,
        StreamServerError,
        StreamTimeoutError,
        StreamTruncatedError,
        UnexpectedRedirectError,
        UnprocessableEntityError,
    )
    from .fanout import FanOut, FanOutResult, MapResult, MapResults
    from .hooks import CallInfo, Hook
    from .stream import (
        ChatCompletionStream,
        Timing,
    )
    from .stream import ChatCompletionStream as AsyncStream
    from .types import (
        NOT_GIVEN,
        ChatCompletion,
        ChatCompletionChunk,
        ChatCompletionMessage,
        Choice,
        ChoiceDelta,
        ChoiceLogprobs,
        ChunkChoice,
        CompletionUsage,
        Function,
        Headers,
        ModelInfo,
        ModelList,
        NotGiven,
        RateLimit,
        RateLimits,
        RequestOptions,
        TokenLogprob,
        ToolCall,
        ToolCallDelta,
        TopLogprob,
        omit,
    )
    from .types import NOT_GIVEN as not_given  # noqa: N811  # the name that other clients give it
    from .types import NotGiven as Omit

__all__ = [
    "DEFAULT_MAX_RETRIES",
    "DEFAULT_TIMEOUT",
    "NOT_GIVEN",
    "APIConnectionError",
    "APIError",
    "APIResponse",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncAPIResponse",
    "AsyncClient",
    "AsyncGradient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "CallInfo",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "ChatCompletionStream",
    "Choice",
    "ChoiceDelta",
    "ChoiceLogprobs",
    "ChunkChoice",
    "CompletionUsage",
    "ConfigurationError",
    "ConflictError",
    "FanOut",
    "FanOutError",
    "FanOutResult",
    "Function",
    "GatewayTimeoutError",
    "GradientError",
    "Headers",
    "Hook",
    "InternalServerError",
    "InvalidRequestError",
    "Limits",
    "MapResult",
    "MapResults",
    "ModelInfo",
    "ModelList",
    "NotFoundError",
    "NotGiven",
    "Omit",
    "OverloadedError",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "Phase",
    "QuotaExceededError",
    "RateLimit",
    "RateLimitError",
    "RateLimits",
    "RequestInfo",
    "RequestOptions",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "ResponseInfo",
    "Retry",
    "StreamError",
    "StreamInterruptedError",
    "StreamLimitError",
    "StreamProtocolError",
    "StreamServerError",
    "StreamTimeoutError",
    "StreamTruncatedError",
    "Timeout",
    "Timing",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "TopLogprob",
    "UnexpectedRedirectError",
    "UnprocessableEntityError",
    "__version__",
    "not_given",
    "omit",
]

_HOMES = {
    "client.core": ("AsyncGradient",),
    "client.response": ("APIResponse",),
    "config": ("DEFAULT_MAX_RETRIES", "DEFAULT_TIMEOUT", "Limits", "Retry", "Timeout"),
    "errors": (
        "APIConnectionError",
        "APIError",
        "APIResponseValidationError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "ConfigurationError",
        "ConflictError",
        "FanOutError",
        "GatewayTimeoutError",
        "GradientError",
        "InternalServerError",
        "InvalidRequestError",
        "NotFoundError",
        "OverloadedError",
        "PaymentRequiredError",
        "PermissionDeniedError",
        "Phase",
        "QuotaExceededError",
        "RateLimitError",
        "RequestInfo",
        "RequestTimeoutError",
        "RequestTooLargeError",
        "ResponseInfo",
        "StreamError",
        "StreamInterruptedError",
        "StreamLimitError",
        "StreamProtocolError",
        "StreamServerError",
        "StreamTimeoutError",
        "StreamTruncatedError",
        "UnexpectedRedirectError",
        "UnprocessableEntityError",
    ),
    "fanout": ("FanOut", "FanOutResult", "MapResult", "MapResults"),
    "hooks": ("CallInfo", "Hook"),
    "stream": (
        "ChatCompletionStream",
        "Timing",
    ),
    "types": (
        "NOT_GIVEN",
        "ChatCompletion",
        "ChatCompletionChunk",
        "ChatCompletionMessage",
        "Choice",
        "ChoiceDelta",
        "ChoiceLogprobs",
        "ChunkChoice",
        "CompletionUsage",
        "Function",
        "Headers",
        "ModelInfo",
        "ModelList",
        "NotGiven",
        "RateLimit",
        "RateLimits",
        "RequestOptions",
        "TokenLogprob",
        "ToolCall",
        "ToolCallDelta",
        "TopLogprob",
        "omit",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
# What users of other clients know under another name.
_ALIASES = {
    "AsyncAPIResponse": "APIResponse",
    "AsyncClient": "AsyncGradient",
    "AsyncStream": "ChatCompletionStream",
    "Omit": "NotGiven",
    "not_given": "NOT_GIVEN",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(_ALIASES.get(name, name))
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415  # loaded long before, by the interpreter itself

    value = getattr(importlib.import_module(f".{home}", __name__), _ALIASES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
