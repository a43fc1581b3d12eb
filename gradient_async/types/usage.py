"""What a request took."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from .common import Model

__all__ = ["CacheCreation", "CompletionTokensDetails", "CompletionUsage", "PromptTokensDetails", "sum_usage"]


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
