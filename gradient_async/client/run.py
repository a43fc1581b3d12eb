"""`run`: lets the model call functions until it has an answer.

Theory of operation
===================

`Turns.events` is a generator: it makes one request after the other, by the methods that users call, and yields the events of
each reply. `ToolRun` is the object that users hold. The generator does not refer to it, so dropping a run ends the generator
without the cyclic garbage collector.

The tools of a turn run in tasks (`TurnTools` in `turn.py`), and report by a queue. A task group around a ``yield`` would cancel
the task of the user, at any await there, when a tool fails. The tasks exist only while the generator waits for them or has
yielded one of their events, and the generator waits for their end however the turn ends. They are in no `TaskGroup`: in Python
3.11 the group of a failed or cancelled task is in a reference cycle with its own frames.

What one turn adds to the history is added by one operation, after the last result, so that ``messages`` can be sent at any
time.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from types import AsyncGeneratorType, TracebackType
from typing import Any, Generic, Literal, Required, Self, TypeAlias, TypedDict, TypeVar, cast

from msgspec.structs import force_setattr

from ..assembly import CompletionAssembler
from ..config import Limits
from ..decoding import as_chunk
from ..decoding.plain import is_list_like
from ..errors import (
    ConfigurationError,
    GradientError,
    InvalidRequestError,
    MaxTurnsError,
    OutputError,
    ToolArgumentsError,
    copy_of,
    escape,
)
from ..events import (
    ChatCompletionStreamEvent,
    EventBuilder,
    ToolRunEvent,
    ToolStartedEvent,
)
from ..output import Answer, answer_of, judge
from ..stream import AsyncOnly
from ..tools import Tool, name_of_tool, tools_of
from ..types import ChatCompletion, ChatCompletionMessage, CompletionUsage, ToolCall, sum_usage
from ..types.params import Tools
from .settings import check_choice, check_count
from .turn import PendingCall, ToolRules, TurnTools

C_co = TypeVar("C_co", bound=ChatCompletion, covariant=True)
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
    stop_when: StopWhen | None
    on_tool_error: OnToolError
    tool_timeout: float | None
    tool_concurrency: int | None
    context: Any


class Turns:
    """The turns of one run.

    Args:
        completions: Has the methods ``stream`` and ``create``, by which requests are made.
        params: Parameters of each request.
        rules: How tools are called.
        foreign: Names of the tools without a function.
        answer: The form of the answer, or None.
        max_turns: Maximum number of requests.
        stream: Whether replies are streamed.
        stop_when: Asked after each turn whether the run ends, or None.

    Attributes:
        turns: The completions so far.
        messages: The history so far.
        run: Returns the object that the user holds, or None.
        begun: Whether the first event has been asked for.
        complete: Whether the run has ended as it should.
        fault: Why the run has ended otherwise.
    """

    run: Callable[[], ToolRun[Any] | None]

    def __init__(
        self,
        completions: Any,
        params: Mapping[str, Any],
        *,
        rules: ToolRules,
        foreign: frozenset[str | None],
        answer: Answer[Any] | None,
        max_turns: int,
        stream: bool,
        stop_when: StopWhen | None,
    ) -> None:
        self._completions = completions
        self._params = dict(params)
        self._rules = rules
        self._foreign = foreign
        self._answer = answer
        self._max_turns = max_turns
        self._stream = stream
        self._stop_when = stop_when
        self.turns: list[ChatCompletion] = []
        self.messages: list[Any] = self._params["messages"]
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

    async def events(self) -> AsyncGenerator[ToolRunEvent]:
        """Make the turns; yield their events."""
        self.begun = True
        turn = 0
        try:
            while not self.complete:
                turn = len(self.turns)
                params = {**self._params, "messages": [*self.messages]}
                if self._stream:
                    async with self._completions.stream(**params) as stream:
                        async for event in stream.events():
                            if turn:
                                force_setattr(event, "turn", turn)
                            yield event
                        completion = await stream.completion()
                else:
                    completion = await self._completions.create(**params)
                    for event in _events_of(completion):
                        force_setattr(event, "turn", turn)
                        yield event
                self.turns.append(completion)
                calls = self._calls_to_run(completion)
                for call in calls:
                    yield ToolStartedEvent(**call.facts(turn))
                if calls:
                    tools = self._start_tools(calls)
                    try:
                        while (finished := await tools.next()) is not None:
                            yield finished
                    finally:
                        await tools.stop()
                    if await self._is_enough():
                        self._end(None)
                    self._params = _later_params(self._params)
        except Exception as error:
            error.add_note(f"turn {turn} of the run")
            self.fault = escape(f"{type(error).__name__}: {error}", 200)
            raise

    def _calls_to_run(self, completion: ChatCompletion) -> list[PendingCall]:
        """Return the calls of a turn; none if the run ends with this turn.

        Raises:
            OutputError: If the calls are cut, or the answer is no value of the type.
            MaxTurnsError: If no further request may be made.
        """
        choice = completion.choices[0]
        given = choice.message.tool_calls or []
        other = (
            choice.message.function_call is not None
        )  # the older form of a call, which a run cannot answer
        if not given and not other:
            error = self._end(self._answer)
            self.messages.append(self.turns[-1].choices[0].message)
            if error is not None:
                raise copy_of(error)
        elif choice.finish_reason in _CUT:
            # Any type will do: the finish_reason is judged before the text.
            _, error = judge(completion, self._answer or Answer(str))
            raise copy_of(cast("OutputError", error))
        elif other or any(call.custom is not None or call.function.name in self._foreign for call in given):
            self._end(None)
        elif len(self.turns) == self._max_turns:
            raise MaxTurnsError(
                f"the model still calls tools after max_turns={self._max_turns} requests; raise max_turns, or let "
                "stop_when end the run",
                turns=self.turns,
                messages=self.messages,
                usage=self.usage,
            )
        else:
            return [
                self._call_of(index, call) for index, call in enumerate(_with_ids(given, len(self.turns) - 1))
            ]
        return []

    def _call_of(self, index: int, call: ToolCall) -> PendingCall:
        name, text = call.function.name, call.function.arguments
        tools = self._rules.tools
        tool: Tool[..., Any] | None = tools.get(name)
        arguments: Any = text
        fault: ToolArgumentsError | None = None
        if tool is None:
            fault = ToolArgumentsError(
                f"There is no tool {escape(name, 80)}. Tools: {', '.join(tools) or 'none'}"
            )
        else:
            try:
                arguments = tool.arguments(text)
            except ToolArgumentsError as error:
                fault = error.with_traceback(None)
        return PendingCall(index=index, call=call, tool=tool, arguments=arguments, fault=fault)

    def _start_tools(self, calls: list[PendingCall]) -> TurnTools:
        message = self.turns[-1].choices[0].message
        # The same message, unless a call had no id.
        message = message.model_copy(update={"tool_calls": [call.call for call in calls]})
        on_results = partial(self._add_results, message)
        return TurnTools(
            len(self.turns) - 1, calls, self._rules, messages=[*self.messages], on_results=on_results
        )

    def _add_results(self, message: ChatCompletionMessage, contents: list[str]) -> None:
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": content}
            for call, content in zip(message.tool_calls or (), contents, strict=True)
        ]
        self.messages += [message, *results]

    async def _is_enough(self) -> bool:
        if self._stop_when is None:
            return False
        # The run exists as long as it is being read.
        answer = self._stop_when(cast("ToolRun[Any]", self.run()))
        return bool(await answer if isawaitable(answer) else answer)

    def _end(self, answer: Answer[Any] | None) -> OutputError | None:
        """End the run with the last turn; return the error if its text has to be a value of a type and is none."""
        error: OutputError | None = None
        if self._answer is not None:
            self.turns[-1], error = judge(self.turns[-1], answer)
        self.complete = error is None
        return error


def _events_of(completion: ChatCompletion) -> Iterator[ChatCompletionStreamEvent]:
    """Return the events of a completion that was awaited, with each text in one delta."""
    assembler = CompletionAssembler(limits=_NO_LIMITS)
    chunk = as_chunk(completion)
    assembler.add(chunk)
    builder = EventBuilder(assembler)
    yield from builder.add(chunk)
    yield from builder.end()


def _with_ids(calls: Sequence[ToolCall], turn: int) -> Iterator[ToolCall]:
    """Give an id to each call that has none, or that of an earlier call: results name the call by its id."""
    known: set[str] = set()
    for index, call in enumerate(calls):
        if not call.id or call.id in known:
            yield call.model_copy(update={"id": f"call_{turn}_{index}"})
        else:
            yield call
        known.add(call.id)


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


class ToolRun(AsyncOnly, Generic[C_co]):
    """A conversation in which the model calls functions until it has an answer: an async iterator of events.

    Nothing is sent before the first event is asked for. Leaving ``async with``, or a cancellation, cancels the tools, waits
    until they are gone, and closes the stream. A function that is not async runs in a thread, which cannot be stopped: the run
    leaves it, and ignores its result.

    Args:
        turns: The turns.

    Attributes:
        advice: What the warning about a run that was dropped before its end tells the user to do.
    """

    advice = "use 'async with', or call aclose()"

    def __init__(self, turns: Turns) -> None:
        turns.run = weakref.ref(self)
        self._turns = turns
        self._events = cast("AsyncGeneratorType[ToolRunEvent, None]", turns.events())

    @property
    def turns(self) -> list[ChatCompletion]:
        """The completions so far: that of an event, once it is whole, is ``run.turns[event.turn]``."""
        return self._turns.turns

    @property
    def messages(self) -> list[Any]:
        """The conversation so far, which can be sent at any time: a message that calls tools is added with all its results."""
        return self._turns.messages

    @property
    def usage(self) -> CompletionUsage | None:
        """The usage of all turns so far, added up; None if no reply told it."""
        return self._turns.usage

    async def completion(self) -> C_co:
        """Read what is left of the run; return the completion of its last turn.

        Raises:
            MaxTurnsError: If the model still calls tools after ``max_turns`` requests.
            GradientError: If a request failed; or if the run has ended early, by an error or by being closed.
        """
        async for _ in self:
            pass
        if not self._turns.complete:
            raise GradientError(
                f"this run has no answer: {self._turns.fault}; run.messages has what was done"
            )
        return cast("C_co", self.turns[-1])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ToolRunEvent:
        if self._is_over():
            raise StopAsyncIteration
        return await self._events.__anext__()

    def _is_over(self) -> bool:
        """Whether no event can follow.

        Raises:
            RuntimeError: If another task waits for an event.
        """
        # The frame is asked first: a generator whose `aclose` was cancelled says for ever that it is running.
        if self._events.ag_frame is None:
            return True
        if self._events.ag_running:
            raise RuntimeError(
                "another task is reading this run: read its events in one task, and hand them on"
            )
        return False

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

    def __repr__(self) -> str:
        state = "completed" if self._turns.complete else "open" if self._events.ag_frame else "ended early"
        return f"<ToolRun {state} turns={len(self.turns)}>"

    def __del__(self) -> None:
        events = getattr(self, "_events", None)
        # The event loop closes a generator that is dropped.
        if events is not None and events.ag_frame is not None and self._turns.begun:
            warnings.warn(
                f"{self!r} was dropped before its end; {self.advice}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


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
    if tool_timeout is not None and not 0 < tool_timeout < float("inf"):
        raise ConfigurationError(f"tool_timeout={tool_timeout!r} is not a positive number of seconds or None")
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
    if response_format is not None:
        params["response_format"] = response_format if answer is None else answer.response_format
    params["tools"] = [each.to_dict() if isinstance(each, Tool) else each for each in known]
    params["messages"] = list(params["messages"])
    return ToolRun(
        Turns(
            completions,
            params,
            rules=ToolRules(
                tools={each.name: each for each in known if isinstance(each, Tool)},
                on_error=on_tool_error,
                timeout=tool_timeout,
                concurrency=tool_concurrency,
                context=context,
            ),
            foreign=frozenset(name_of_tool(each) for each in known if not isinstance(each, Tool)),
            answer=answer,
            max_turns=max_turns,
            stream=stream,
            stop_when=stop_when,
        )
    )
