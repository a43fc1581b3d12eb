"""What came to a choice after some moment, as one delta.

Pieces are kept in lists that only grow. So the lengths of the lists are a moment, and the rest of the lists is what came
after it. The rest is again a part of a stream: whoever has everything before it, and adds it by the rule for fragments, has
everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..types import ChoiceDelta, ChoiceLogprobs, ChunkChoice, FunctionDelta, ToolCallDelta
from .call import CallState, join_custom
from .choices import JOIN, ChoiceState
from .pieces import merge_all


class CallPosition(msgspec.Struct, frozen=True):
    """How far a call had come at some moment.

    Attributes:
        id: Its id.
        type: Its type.
        name: Its name.
        arguments: The list of the pieces of its arguments; another one if they have been replaced since.
        counts: The number of pieces of arguments, payload and extra content.
    """

    id: str = ""
    type: str = ""
    name: str = ""
    arguments: list[str] | None = None
    counts: tuple[int, int, int] = (0, 0, 0)


class Position(msgspec.Struct, frozen=True):
    """How far a choice had come at some moment.

    Attributes:
        counts: The number of pieces of text, reasoning, refusal and the two kinds of logprobs.
        calls: The calls, in the order of opening.
        function_call: The older form of a call.
        rest: The number of pieces of the other fields, by name.
        role: Whether there was a role.
        finished: Whether the choice was finished.
    """

    counts: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    calls: tuple[CallPosition, ...] = ()
    function_call: CallPosition | None = None
    rest: dict[str, int] = {}
    role: bool = False
    finished: bool = False


def position_of(state: ChoiceState) -> Position:
    """Note how far a choice has come."""
    text, reasoning, refusal, logprobs, refusal_logprobs = map(len, _lists(state))
    return Position(
        counts=(text, reasoning, refusal, logprobs, refusal_logprobs),
        calls=tuple(map(_position_of_call, state.calls.opened)),
        function_call=None if state.function_call is None else _position_of_call(state.function_call),
        rest={name: len(pieces) for name, pieces in state.rest.items()},
        role=bool(state.role),
        finished=state.finished,
    )


def since(state: ChoiceState, position: Position) -> ChunkChoice | None:
    """Return everything that came to a choice after a position; None if nothing did.

    Args:
        state: The choice as it is now.
        position: How far it had come.
    """
    text, reasoning, refusal, logprobs, refusal_logprobs = (
        items[seen:] for items, seen in zip(_lists(state), position.counts, strict=True)
    )
    calls: list[ToolCallDelta] = []
    for ordinal, call in enumerate(state.calls.opened):
        known = position.calls[ordinal] if ordinal < len(position.calls) else None
        for delta in _call_since(call, known):
            if call.indexed:
                delta.index = call.index
            if state.calls.index.latest[call.index if call.indexed else None] is not call:
                delta.id = call.id or None  # the index alone would lead to another call
            calls.append(delta)
    older = () if state.function_call is None else _call_since(state.function_call, position.function_call)
    choice = ChunkChoice(
        index=state.index,
        delta=ChoiceDelta(
            role=None if position.role else state.role or None,
            content="".join(text) if text else None,
            reasoning_content="".join(reasoning) if reasoning else None,
            refusal="".join(refusal) if refusal else None,
            tool_calls=calls or None,
            function_call=older[-1].function if older else None,
            **_rest_since(state.rest, position.rest),
        ),
        logprobs=ChoiceLogprobs(content=logprobs or None, refusal=refusal_logprobs or None)
        if logprobs or refusal_logprobs
        else None,
    )
    came = choice != ChunkChoice(index=state.index)
    if state.finished and (came or not position.finished):
        choice.finish_reason = state.finish_reason
        came = True
    return choice if came else None


def _lists(state: ChoiceState) -> Sequence[list[Any]]:
    return (state.content, state.reasoning, state.refusal, state.logprobs or [], state.refusal_logprobs or [])


def _rest_since(rest: dict[str, list[Any]], seen: dict[str, int]) -> dict[str, Any]:
    return {
        name: JOIN[name](pieces[seen.get(name, 0) :])
        for name, pieces in rest.items()
        if len(pieces) > seen.get(name, 0)
    }


def _position_of_call(call: CallState) -> CallPosition:
    pieces = call.arguments.pieces
    counts = (len(pieces), len(call.custom), len(call.extra_content))
    return CallPosition(call.id, call.type, call.name, pieces, counts)


def _call_since(call: CallState, position: CallPosition | None) -> list[ToolCallDelta]:
    """Return what came to a call after a position, or all of the call."""
    known = position or CallPosition()
    seen, custom, extra = known.counts
    deltas: list[ToolCallDelta] = []
    pieces = call.arguments.pieces
    if pieces is known.arguments:
        pieces = pieces[seen:]
    elif known.arguments and len(known.arguments) > seen:
        # The rest of an empty object, which the pieces replace.
        deltas.append(ToolCallDelta(function=FunctionDelta(arguments="".join(known.arguments[seen:]))))
    name = call.name[len(known.name) :] or None
    if known.name and name and call.arguments.pieces:
        # Once arguments have begun, a longer name restates the one before; until then, another piece is appended.
        deltas.append(ToolCallDelta(function=FunctionDelta(arguments="".join(pieces))))
        name, pieces = call.name, []
    delta = ToolCallDelta(
        id=call.id or None if call.id != known.id else None,
        type=call.type or None if call.type != known.type else None,
        function=FunctionDelta(
            name=name,
            arguments="".join(pieces) if pieces or position is None else None,
        ),
        custom=join_custom(call.custom[custom:]) if len(call.custom) > custom else None,
        extra_content=merge_all(call.extra_content[extra:]) if len(call.extra_content) > extra else None,
    )
    if position is None or delta != ToolCallDelta():
        deltas.append(delta)
    return deltas
