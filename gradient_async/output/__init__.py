"""Typed answers: types to JSON schemas, and texts to values."""

from .answers import Answer, answer_of, is_type, judge, judge_choice, parse_completion, retry_messages
from .schemas import Codec, UnfitTextError, has_model
from .strict import NoSchemaError

__all__ = [
    "Answer",
    "Codec",
    "NoSchemaError",
    "UnfitTextError",
    "answer_of",
    "has_model",
    "is_type",
    "judge",
    "judge_choice",
    "parse_completion",
    "retry_messages",
]
