"""Makes one delta of everything that was added to a choice after some moment.

Pieces are kept in lists that only grow. So the lengths of the lists describe a moment, and the rest of each list is what was
added after it. The delta is like a part of the stream: a reader that has everything up to the moment, and adds the delta by
the rule for fragments, has the whole choice.
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
    """What had been received of a call at some moment.

    Attributes:
        id: Id of the call.
        type: Type of the call.
        name: Name of the function.
        arguments: The list of the pieces of the arguments; if it is no longer the call's list, they have been replaced.
        counts: The numbers of pieces of arguments, payload and extra content.
    """

    id: str = ""
    type: str = ""
    name: str = ""
    arguments: list[str] | None = None
    counts: tuple[int, int, int] = (0, 0, 0)


class Position(msgspec.Struct, frozen=True):
    """What had been received of a choice at some moment.

    Attributes:
        counts: The numbers of pieces of text, reasoning and refusal, and of entries of the two kinds of logprobs.
        calls: The calls, in the order in which they were opened.
        function_call: The older form of a call.
        rest: The number of pieces of the other fields, by name.
        role: Whether a role had been received.
        finished: Whether the choice was finished.
    """

    counts: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    calls: tuple[CallPosition, ...] = ()
    function_call: CallPosition | None = None
    rest: dict[str, int] = {}
    role: bool = False
    finished: bool = False


def position_of(state: ChoiceState) -> Position:
    """Return what has been received of a choice so far."""
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
    """Return everything that was added to a choice after a position; None if nothing was.

    Args:
        state: The choice as it is now.
        position: The choice as it was.
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
                delta.id = call.id or None  # with the index alone, the fragment would go to another call
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


def everything(state: ChoiceState) -> ChunkChoice:
    """Return everything that was added to a choice; also a finish_reason that content followed."""
    choice = since(state, Position()) or ChunkChoice(index=state.index)
    choice.finish_reason = state.finish_reason
    choice.logprobs = state.to_logprobs()
    return choice


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
    """Return what was added to a call after a position; without a position, the whole call."""
    known = position or CallPosition()
    seen, custom, extra = known.counts
    deltas: list[ToolCallDelta] = []
    pieces = call.arguments.pieces
    if pieces is known.arguments:
        pieces = pieces[seen:]
    elif known.arguments and len(known.arguments) > seen:
        # The reader must see the rest of the empty object first, because the pieces replace the whole object.
        deltas.append(ToolCallDelta(function=FunctionDelta(arguments="".join(known.arguments[seen:]))))
    name = call.name[len(known.name) :] or None
    if known.name and name and call.arguments.pieces:
        # By the rule, a name after arguments is the whole name; before arguments it is appended. So arguments go first.
        deltas.append(ToolCallDelta(function=FunctionDelta(arguments="".join(pieces))))
        name, pieces = call.name, []
    delta = ToolCallDelta(
        id=call.id if call.id != known.id else None,
        type=call.type if call.type != known.type else None,
        function=FunctionDelta(
            name=name,
            # A new call has arguments, though they are empty: callers append those of its later deltas.
            arguments="".join(pieces) if pieces or position is None else None,
        ),
        custom=join_custom(call.custom[custom:]),
        extra_content=merge_all(call.extra_content[extra:]),
    )
    if delta != ToolCallDelta():
        deltas.append(delta)
    return deltas
