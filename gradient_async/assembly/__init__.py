"""Assembles chunks to a completion: text, reasoning, refusal, tool calls, logprobs, usage.

Pure: no clock, no I/O. The work for a chunk depends on that chunk alone; pieces are joined when
`CompletionAssembler.completion` is read.
"""

from .call import CallState
from .choices import JOIN, ChoiceState
from .completion import CompletionAssembler
from .pieces import kept_size, utf8_size
from .position import Position, position_of, since

__all__ = [
    "JOIN",
    "CallState",
    "ChoiceState",
    "CompletionAssembler",
    "Position",
    "kept_size",
    "position_of",
    "since",
    "utf8_size",
]
