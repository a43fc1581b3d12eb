"""`run`: lets the model call functions until it has an answer.

Theory of operation
===================

`Turns` is the state of a run and its rules: what the next request is, what a reply means, which tools it calls. It does no I/O.
`ToolRun`, and its counterpart without asyncio in `sync/run.py`, is the object that users hold. It has a generator, which makes
one request after the other, by the methods that users call, and yields the events of each reply and of its tools. The generator
does not refer to the object, so dropping a run ends the generator without the cyclic garbage collector.

The tools of a turn run in tasks (`TurnTools` in `turn.py`), and report by a queue. A task group around a ``yield`` would cancel
the task of the user, at any await there, when a tool fails. The tasks exist only while the generator waits for them or has
yielded one of their events, and the generator waits for their end however the turn ends. They are in no `TaskGroup`: in Python
3.11 the group of a failed or cancelled task is in a reference cycle with its own frames.

What one turn adds to the history is added by one operation, after the last result, so that ``messages`` can be sent at any
time.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from inspect import isawaitable
from types import AsyncGeneratorType, TracebackType
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    Required,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    cast,
    overload,
)

import msgspec
from msgspec.structs import force_setattr

from ..assembly import CompletionAssembler
from ..config import Limits
from ..decoding import as_chunk
from ..decoding.plain import is_list_like
from ..errors import GradientError, InvalidRequestError, MaxTurnsError, OutputError, copy_of, escape
from ..events import ChatCompletionStreamEvent, EventBuilder, ToolRunEvent
from ..output import Answer, answer_of, judge
from ..stream import AsyncOnly
from ..tools import Tool, check_seconds, name_of_tool, text_of_error, tools_of
from ..types import (
    ChatCompletion,
    ChatCompletionMessage,
    CompletionUsage,
    ParsedChatCompletion,
    ToolCall,
    sum_usage,
)
from ..types.params import Tools
from .settings import check_choice, check_count
from .turn import ToolRules, TurnTools, pending_call

T = TypeVar("T")
C_co = TypeVar("C_co", bound=ChatCompletion, covariant=True)
E = TypeVar("E", bound=ChatCompletionStreamEvent)
OnToolError: TypeAlias = Literal["tell", "raise"] | Callable[[ToolCall, Exception], str | Awaitable[str]]
StopWhen: TypeAlias = "Callable[[ToolRun[Any]], bool | Awaitable[bool]]"

# The reply has passed the limits of the client already.
_NO_LIMITS = Limits(completion_bytes=None, choices=sys.maxsize, tool_calls=sys.maxsize)
# Parameters that a run reads or changes.
_NOT_IN_EXTRA_BODY = ("messages", "tools", "tool_choice", "response_format", "n", "stream")
_CUT = frozenset({"length", "content_filter"})


class RunOptions(TypedDict, total=False):
    """Keyword arguments of `run` besides the parameters of its requests; see `Completions.run`."""

    tools: Required[Tools]
    max_turns: int
    stream: bool
    on_tool_error: OnToolError
    tool_timeout: float | None
    tool_concurrency: int | None
    context: Any


class Turns:
    """The state and the rules of one run.

    Args:
        params: Parameters of the first request.
        rules: How tools are called.
        foreign: Names of the tools without a function.
        answer: The form of the answer, or None.
        max_turns: Maximum number of requests.
        stream: Whether replies are streamed.
        stop_when: Asked after each turn whether the run ends, or None.

    Attributes:
        turns: The completions so far.
        messages: The history so far.
        begun: Whether the first event has been asked for.
        complete: Whether the run has ended as it should.
        fault: Why the run has ended otherwise.
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
        """The usage of all turns; None if no reply told it."""
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
        """Give an event of a reply the number of the turn."""
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
            OutputError: If the calls are cut, or the answer is no value of the type.
            MaxTurnsError: If no further request may be made.
        """
        error: OutputError | None = None
        if self._answer is not None:
            completion, error = judge(completion, self._answer)
        self.turns.append(completion)
        message, reason = completion.choices[0].message, completion.choices[0].finish_reason
        calls = message.tool_calls or []
        older = message.function_call is not None  # a call of the older form, which a run cannot answer
        if not calls and not older:
            self.messages.append(message)
        elif reason in _CUT and error is None:
            # Any type will do: the finish_reason is judged before the text.
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
        """End the run with an error; let the error know the turn."""
        error.add_note(f"turn {turn} of the run")
        self.fault = escape(text_of_error(error), 200)


def _with_ids(calls: list[ToolCall], turn: int) -> Iterator[ToolCall]:
    """Give an id to each call that has none, or that of an earlier call: results name the call by its id."""
    known: set[str] = set()
    for index, call in enumerate(calls):
        if not call.id or call.id in known:
            yield call.model_copy(update={"id": f"call_{turn}_{index}"})
        else:
            yield call
        known.add(call.id)


def _sendable(call: ToolCall) -> ToolCall:
    """Return a call for the history. Its arguments must be an object: several servers refuse a history with others."""
    function = call.function
    if isinstance(function.parsed_arguments, dict):
        return call
    text = function.arguments
    arguments = msgspec.json.encode({"INVALID_JSON": text}).decode() if text.strip() else "{}"
    return call.model_copy(update={"function": function.model_copy(update={"arguments": arguments})})


def _later_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters for later turns: a model that has to call a tool in each turn would never answer."""
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


class BaseRun(ABC, Generic[C_co]):
    """What a run shows of its state, with asyncio and without.

    Attributes:
        state: The state of the run.
        advice: What the warning about a run that was dropped before its end tells the user to do.
    """

    advice: ClassVar[str]
    state: Turns

    @property
    def turns(self) -> list[ChatCompletion]:
        """The completions so far: that of an event, once it is whole, is ``run.turns[event.turn]``."""
        return self.state.turns

    @property
    def messages(self) -> list[Any]:
        """The conversation so far, which can be sent at any time: a message that calls tools is added with all its results."""
        return self.state.messages

    @property
    def usage(self) -> CompletionUsage | None:
        """The usage of all turns so far, added up; None if no reply told it."""
        return self.state.usage

    @property
    @abstractmethod
    def _frame(self) -> object:
        """The frame of the generator; None at its end."""

    @property
    @abstractmethod
    def _running(self) -> bool:
        """Whether somebody waits for an event."""

    def _is_over(self) -> bool:
        """Whether no event can follow.

        Raises:
            RuntimeError: If another task or thread waits for an event.
        """
        # The frame is asked first: a generator whose `aclose` was cancelled says for ever that it is running.
        if self._frame is None:
            return True
        if self._running:
            raise RuntimeError(
                f"another {self._reader} is reading this run: read its events in one, and hand them on"
            )
        return False

    _reader: ClassVar[str]

    def _last(self) -> C_co:
        """Return the completion of a run that was read to its end.

        Raises:
            GradientError: If the run has ended early.
        """
        if not self.state.complete:
            raise GradientError(f"this run has no answer: {self.state.fault}; run.messages has what was done")
        return cast("C_co", self.turns[-1])

    def __repr__(self) -> str:
        state = "completed" if self.state.complete else "open" if self._frame else "ended early"
        return f"<ToolRun {state} turns={len(self.turns)}>"

    def __del__(self) -> None:
        # Copying may have failed before there were attributes.
        if "_events" in vars(self) and self._frame is not None and self.state.begun:
            warnings.warn(
                f"{self!r} was dropped before its end; {self.advice}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class ToolRun(AsyncOnly, BaseRun[C_co]):
    """A conversation in which the model calls functions until it has an answer: an async iterator of events.

    Nothing is sent before the first event is asked for. Leaving ``async with``, or a cancellation, cancels the tools, waits
    until they are gone, and closes the stream. A function that is not async runs in a thread, which cannot be stopped: the run
    leaves it, and ignores its result.

    Args:
        turns: The state of the run.
        completions: Has the methods ``stream`` and ``create``, by which requests are made.
    """

    advice = "use 'async with', or call aclose()"
    _reader = "task"

    def __init__(self, turns: Turns, completions: Any) -> None:
        self.state = turns
        events = _events(turns, completions, weakref.ref(self))
        self._events = cast("AsyncGeneratorType[ToolRunEvent, None]", events)

    async def completion(self) -> C_co:
        """Read what is left of the run; return the completion of its last turn.

        Raises:
            MaxTurnsError: If the model still calls tools after ``max_turns`` requests.
            GradientError: If a request failed; or if the run has ended early, by an error or by being closed.
        """
        async for _ in self:
            pass
        return self._last()

    def __aiter__(self) -> Self:
        return self

    @overload
    async def __anext__(self: ToolRun[ParsedChatCompletion[T]]) -> ToolRunEvent[T]: ...
    @overload
    async def __anext__(self) -> ToolRunEvent: ...
    async def __anext__(self) -> ToolRunEvent:
        if self._is_over():
            raise StopAsyncIteration
        return await self._events.__anext__()

    async def aclose(self) -> None:
        """Cancel the tools, wait until they are gone, and close the stream."""
        if not self._is_over():
            await self._events.aclose()

    async def close(self) -> None:
        """The same as `aclose`."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def _frame(self) -> object:
        return self._events.ag_frame

    @property
    def _running(self) -> bool:
        return self._events.ag_running


async def _events(
    turns: Turns, completions: Any, run: Callable[[], ToolRun[Any] | None]
) -> AsyncGenerator[ToolRunEvent]:
    """Make the requests of a run, and yield its events."""
    turn = 0
    try:
        while not turns.complete:
            turn = len(turns.turns)
            request = turns.request()
            if turns.stream:
                async with completions.stream(**request) as stream:
                    with contextlib.suppress(OutputError):  # `receive` raises it, if this is the last turn
                        async for event in stream.events():
                            yield turns.of_turn(event)
                    completion = stream.snapshot
            else:
                completion = await completions.create(**request)
                for event in turns.events_of(completion):
                    yield event
            tools = turns.receive(completion)
            if tools is None:
                return
            for started in tools.started:
                yield started
            try:
                while (finished := await tools.next()) is not None:
                    yield finished
            finally:
                await tools.stop()
            if turns.stop_when is not None:
                answer = turns.stop_when(run())  # the run exists as long as it is being read
                turns.complete = bool(await answer if isawaitable(answer) else answer)
    except Exception as error:
        turns.fail(error, turn)
        raise


def start_run(
    completions: Any,
    params: dict[str, Any],
    *,
    tools: Any,
    max_turns: int,
    stream: bool,
    stop_when: StopWhen | None,
    on_tool_error: OnToolError,
    tool_timeout: float | None,
    tool_concurrency: int | None,
    context: Any,
    response_format: Any,
) -> ToolRun[Any]:
    """Check the arguments of `run`, and make the run.

    Raises:
        ConfigurationError: If an option can't be used.
        InvalidRequestError: If there is no tool, more than one choice, or no schema for the type of the answer.
        TypeError: If a function cannot be a tool.
    """
    check_count("max_turns", max_turns, min_=1)
    if tool_concurrency is not None:
        check_count("tool_concurrency", tool_concurrency, min_=1)
    check_seconds("tool_timeout", tool_timeout)
    if stop_when is not None and not callable(stop_when):
        raise TypeError(f"stop_when: expected a function, not {type(stop_when).__name__}")
    if not callable(on_tool_error):
        check_choice("on_tool_error", on_tool_error, "tell", "raise")
    made = tools_of(tools)
    if not isinstance(made, list) or not made:
        raise InvalidRequestError("tools: a run needs a list with a function, or another tool", param="tools")
    known = cast("list[Any]", made)
    if params.get("n") not in {None, 1}:
        raise InvalidRequestError(f"n={params['n']!r}: a run continues with one choice", param="n")
    extra_body: Mapping[str, Any] = params.get("extra_body") or {}
    for name in _NOT_IN_EXTRA_BODY:
        if name in extra_body:
            raise InvalidRequestError(f"extra_body: pass {name} as an argument of run()", param=name)
    if "messages" not in params:
        raise TypeError("missing required keyword argument 'messages'")
    if not is_list_like(params["messages"]):
        raise InvalidRequestError("messages: expected a list of messages", param="messages")
    answer = answer_of(response_format)
    if answer is None and response_format is not None:
        params["response_format"] = response_format
    params["tools"] = [each.to_dict() if isinstance(each, Tool) else each for each in known]
    params["messages"] = list(params["messages"])
    turns = Turns(
        params,
        rules=ToolRules(
            tools={each.name: each for each in known if isinstance(each, Tool)},
            on_error=on_tool_error,
            timeout=tool_timeout,
            concurrency=tool_concurrency,
            context=context,
        ),
        foreign=frozenset(name_of_tool(each) for each in known if not isinstance(each, Tool)),
        answer=None if answer is None else answer.in_run(),
        max_turns=max_turns,
        stream=stream,
        stop_when=stop_when,
    )
    return ToolRun(turns, completions)
