"""Assembles chunks to a completion: text, reasoning, refusal, tool calls, logprobs, usage.

Pure: no clock, no I/O. The work for a chunk depends on that chunk alone; pieces are joined when
`CompletionAssembler.completion` is read.
"""

from .choices import CallState, ChoiceState
from .completion import CompletionAssembler

__all__ = ["CallState", "ChoiceState", "CompletionAssembler"]
