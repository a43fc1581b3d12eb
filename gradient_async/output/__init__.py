"""Typed answers: types to JSON schemas, and texts to values."""

from .answers import (
    Answer,
    answer_of,
    describe_error,
    has_answer,
    is_type,
    judge,
    judge_choice,
    parse_completion,
    parse_so_far,
    retry_messages,
    take_answer,
    value_of,
)
from .inspection import has_model
from .schemas import Codec, UnfitTextError, match_opening
from .strict import NoSchemaError

__all__ = [
    "Answer",
    "Codec",
    "NoSchemaError",
    "UnfitTextError",
    "answer_of",
    "describe_error",
    "has_answer",
    "has_model",
    "is_type",
    "judge",
    "judge_choice",
    "match_opening",
    "parse_completion",
    "parse_so_far",
    "retry_messages",
    "take_answer",
    "value_of",
]
