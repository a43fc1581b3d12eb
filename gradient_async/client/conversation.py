"""The conversation of a run: its history, the next request, and the meaning of a reply. No I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar, cast

import msgspec
from msgspec.structs import force_setattr

from ..assembly import CompletionAssembler
from ..config import Limits
from ..decoding import as_chunk
from ..errors import MaxTurnsError, OutputError, copy_of, escape
from ..events import ChatCompletionStreamEvent, EventBuilder
from ..output import Answer, judge
from ..tools import text_of_error
from ..types import ChatCompletion, ChatCompletionMessage, CompletionUsage, ToolCall, sum_usage
from .turn import ToolRules, TurnTools, pending_call

E = TypeVar("E", bound=ChatCompletionStreamEvent)

# For the events of a whole reply no limits are needed: the client has checked the reply against its own limits.
_NO_LIMITS = Limits(completion_bytes=None, choices=sys.maxsize, tool_calls=sys.maxsize)
_CUT = frozenset({"length", "content_filter"})


class Conversation:
    """The state and the rules of one run.

    Args:
        params: Parameters of the first request.
        rules: How tools are called.
        foreign: Names of the tools without a function.
        answer: The form of the answer, or None.
        max_turns: Maximum number of requests.
        stream: Whether replies are streamed.
        stop_when: Called after each turn; decides whether the run ends. None never ends the run.

    Attributes:
        turns: The completions so far.
        messages: The history so far.
        begun: Whether the first event has been asked for.
        complete: Whether the run has ended with an answer or a call for the caller.
        fault: Why an incomplete run has ended.
    """

    def __init__(
        self,
        params: dict[str, Any],
        *,
        rules: ToolRules,
        foreign: frozenset[str | None],
        answer: Answer[Any] | None,
        max_turns: int,
        stream: bool,
        stop_when: Callable[[Any], Any] | None,
    ) -> None:
        self._params = params
        self._rules = rules
        self._foreign = foreign
        self._answer = answer
        self._max_turns = max_turns
        self.stream = stream
        self.stop_when = stop_when
        self.turns: list[ChatCompletion] = []
        self.messages: list[Any] = params["messages"]
        self.begun = False
        self.complete = False
        self.fault = "it was left before its end"

    @property
    def usage(self) -> CompletionUsage | None:
        """The usage of all turns; None if no reply reported usage."""
        usage: CompletionUsage | None = None
        for completion in self.turns:
            if completion.usage is not None:
                usage = sum_usage(usage, completion.usage)
        return usage

    def request(self) -> dict[str, Any]:
        """Begin a turn; return the parameters of its request."""
        if self.turns:
            self._params = _later_params(self._params)
        self.begun = True
        form: Any = self._answer if self.stream else self._answer and self._answer.response_format
        typed = {} if form is None else {"response_format": form}
        return {**self._params, **typed, "messages": [*self.messages]}

    def of_turn(self, event: E) -> E:
        """Set the number of the turn in an event, and return the event."""
        if self.turns:
            force_setattr(event, "turn", len(self.turns))
        return event

    def events_of(self, completion: ChatCompletion) -> Iterator[ChatCompletionStreamEvent]:
        """Yield the events of a reply that was awaited, with each text in one delta."""
        assembler = CompletionAssembler(limits=_NO_LIMITS)
        chunk = as_chunk(completion)
        assembler.add(chunk)
        builder = EventBuilder(assembler, self._answer, lambda: completion)
        for events in (builder.add(chunk), builder.end()):
            yield from map(self.of_turn, events)

    def receive(self, completion: ChatCompletion) -> TurnTools | None:
        """End a turn with its completion; return its tools, or None if the run ends with this turn.

        Raises:
            OutputError: If the calls are cut, or the answer is not a value of the type.
            MaxTurnsError: If no further request may be made.
        """
        error: OutputError | None = None
        if self._answer is not None:
            completion, error = judge(completion, self._answer)
        self.turns.append(completion)
        message, reason = completion.choices[0].message, completion.choices[0].finish_reason
        calls = message.tool_calls or []
        # A call in the older form has no id, so a run cannot answer it.
        older = message.function_call is not None
        if not calls and not older:
            self.messages.append(message)
        elif reason in _CUT and error is None:
            # `str` stands for any type: `judge` raises for this finish_reason before it looks at the text.
            _, error = judge(completion, Answer(str))
        if error is not None:
            raise copy_of(error)
        if not calls or older or any(self._is_foreign(call) for call in calls):
            self.complete = True
            return None
        if len(self.turns) == self._max_turns:
            raise MaxTurnsError(
                f"the model still calls tools after max_turns={self._max_turns} requests; raise max_turns, or let "
                "stop_when end the run",
                turns=self.turns,
                messages=self.messages,
                usage=self.usage,
            )
        return self._tools_of(message, calls)

    def _is_foreign(self, call: ToolCall) -> bool:
        return call.custom is not None or call.function.name in self._foreign

    def _tools_of(self, message: ChatCompletionMessage, given: list[ToolCall]) -> TurnTools:
        turn = len(self.turns) - 1
        calls = [pending_call(self._rules, index, call) for index, call in enumerate(_with_ids(given, turn))]
        message = message.model_copy(update={"tool_calls": [_sendable(call.call) for call in calls]})
        on_results = partial(self._add_results, message)
        return TurnTools(turn, calls, self._rules, messages=[*self.messages], on_results=on_results)

    def _add_results(self, message: ChatCompletionMessage, contents: list[str]) -> None:
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": content}
            for call, content in zip(message.tool_calls or (), contents, strict=True)
        ]
        self.messages += [message, *results]

    def fail(self, error: Exception, turn: int) -> None:
        """End the run with an error, and add the number of the turn to the error."""
        error.add_note(f"turn {turn} of the run")
        self.fault = escape(text_of_error(error), 200)


def _with_ids(calls: list[ToolCall], turn: int) -> Iterator[ToolCall]:
    """Yield the calls; a call without an id, or with the id of an earlier call, gets a new id for its result to refer to."""
    known: set[str] = set()
    for index, call in enumerate(calls):
        if not call.id or call.id in known:
            yield call.model_copy(update={"id": f"call_{turn}_{index}"})
        else:
            yield call
        known.add(call.id)


def _sendable(call: ToolCall) -> ToolCall:
    """Return a call for the history. Arguments become a JSON object, because several servers refuse all other arguments."""
    function = call.function
    if isinstance(function.parsed_arguments, dict):
        return call
    text = function.arguments
    arguments = msgspec.json.encode({"INVALID_JSON": text}).decode() if text.strip() else "{}"
    return call.model_copy(update={"function": function.model_copy(update={"arguments": arguments})})


def _later_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters for later turns. They do not force a call, because a turn with a call is never the answer."""
    choice = params.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return params
    others = {name: value for name, value in params.items() if name != "tool_choice"}
    if isinstance(choice, Mapping) and "allowed_tools" in choice:
        allowed = cast("Mapping[str, Any]", choice)
        return {
            **others,
            "tool_choice": {**allowed, "allowed_tools": {**allowed["allowed_tools"], "mode": "auto"}},
        }
    return others
