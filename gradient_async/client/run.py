"""`run`: lets the model call functions until it has an answer.

Theory of operation
===================

`Conversation` has the state and the rules of a run: the next request, the meaning of a reply, and the tools that it calls.
`ToolRun`, and its counterpart without asyncio in `sync/run.py`, is the object that users hold. It has a generator, which makes
one request after the other, by the public methods, and yields the events of each reply and of its tools. The generator does
not refer to the object, so dropping a run ends the generator without the cyclic garbage collector.

The tools of a turn run in tasks (`TurnTools` in `turn.py`), and report through a queue. The tasks exist only while the
generator waits for them or has yielded one of their events, and the generator always waits for their end. They are in no
`TaskGroup`, for two reasons. A task group around a ``yield`` would cancel the user's task, at any await there, when a tool
fails. And in Python 3.11, the group of a failed or cancelled task is in a reference cycle with its own frames.

One operation, after the last result, adds all messages of a turn to the history, so that ``messages`` can be sent at any time.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from inspect import isawaitable
from types import AsyncGeneratorType, TracebackType
from typing import Any, ClassVar, Generic, Literal, Self, TypeAlias, TypeVar, cast, overload

from ..decoding.plain import is_list_like
from ..errors import GradientError, InvalidRequestError, OutputError
from ..events import ToolRunEvent
from ..hooks import Hook
from ..output import answer_of
from ..stream import AsyncForOnly, AsyncOnly
from ..tools import Tool, check_seconds, name_of_tool, tools_of
from ..types import (
    ChatCompletion,
    CompletionUsage,
    ParsedChatCompletion,
    ToolCall,
)
from .conversation import Conversation
from .settings import check_choice, check_count, check_function
from .turn import ToolRules

T = TypeVar("T")
C_co = TypeVar("C_co", bound=ChatCompletion, covariant=True)
OnToolError: TypeAlias = Literal["tell", "raise"] | Callable[[ToolCall, Exception], str | Awaitable[str]]
StopWhen: TypeAlias = "Callable[[ToolRun[Any]], bool | Awaitable[bool]]"

# Parameters that a run reads or changes.
_NOT_IN_EXTRA_BODY = ("messages", "tools", "tool_choice", "response_format", "n", "stream")


class BaseRun(ABC, Generic[C_co]):
    """Base of the runs with and without asyncio: the properties that show the state.

    Attributes:
        state: The state of the run.
        advice: What to do about a run that was dropped before its end; a part of the warning.
    """

    advice: ClassVar[str]
    state: Conversation

    @property
    def turns(self) -> list[ChatCompletion]:
        """The completions so far; ``run.turns[event.turn]`` is the completion of an event, once the completion is whole."""
        return self.state.turns

    @property
    def messages(self) -> list[Any]:
        """The conversation so far. You can send it at any time, because a message with tool calls is added with all results."""
        return self.state.messages

    @property
    def usage(self) -> CompletionUsage | None:
        """The usage of all turns so far, added up; None if no reply reported usage."""
        return self.state.usage

    @property
    @abstractmethod
    def _frame(self) -> object:
        """The frame of the generator; None at its end."""

    @property
    @abstractmethod
    def _running(self) -> bool:
        """Whether a task or thread waits for an event."""

    def _is_over(self) -> bool:
        """Whether no event can follow.

        Raises:
            RuntimeError: If another task or thread waits for an event.
        """
        # The frame is checked first: a generator whose `aclose` was cancelled reports for ever that it is running.
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
        # `__del__` also runs if `__init__` or a copy failed before the attributes were set.
        if "_events" in vars(self) and self._frame is not None and self.state.begun:
            warnings.warn(
                f"{self!r} was dropped before its end; {self.advice}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class ToolRun(AsyncForOnly, AsyncOnly, BaseRun[C_co]):
    """A conversation in which the model calls functions until it has an answer: an async iterator of events.

    The first request is sent when you ask for the first event. Leaving ``async with``, or a cancellation, cancels the tools,
    waits until they have ended, and closes the stream. A function that is not async runs in a thread, which cannot be stopped:
    the run does not wait for the thread, and ignores its result.

    Args:
        state: The state of the run.
        completions: The resource whose methods ``stream`` and ``create`` make the requests.
    """

    advice = "use 'async with', or call aclose()"
    _reader = "task"

    def __init__(self, state: Conversation, completions: Any) -> None:
        self.state = state
        events = _events(state, completions, weakref.ref(self))
        self._events = cast("AsyncGeneratorType[ToolRunEvent, None]", events)

    async def completion(self) -> C_co:
        """Read the rest of the run; return the completion of its last turn.

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
        """Cancel the tools, wait until they have ended, and close the stream."""
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
    state: Conversation, completions: Any, run: Callable[[], ToolRun[Any] | None]
) -> AsyncGenerator[ToolRunEvent]:
    """Make the requests of a run, and yield its events."""
    turn = 0
    try:
        while not state.complete:
            turn = len(state.turns)
            request = state.request()
            if state.stream:
                async with completions.stream(**request) as stream:
                    # The error is suppressed here, because `receive` raises it if this is the last turn.
                    with contextlib.suppress(OutputError):
                        async for event in stream.events():
                            yield state.of_turn(event)
                    completion = stream.snapshot
            else:
                completion = await completions.create(**request)
                for event in state.events_of(completion):
                    yield event
            tools = state.receive(completion)
            if tools is None:
                return
            for started in tools.started:
                yield started
            try:
                while (finished := await tools.next()) is not None:
                    yield finished
            finally:
                await tools.stop()
            if state.stop_when is not None:
                answer = state.stop_when(run())  # `run()` is not None: a run exists while its generator runs
                state.complete = bool(await answer if isawaitable(answer) else answer)
    except Exception as error:
        state.fail(error, turn)
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
    hooks: tuple[Hook, ...],
    redact: Callable[[str], str],
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
    check_function("stop_when", stop_when)
    if not callable(on_tool_error):
        check_choice("on_tool_error", on_tool_error, "tell", "raise")
    made = tools_of(tools)
    if not isinstance(made, list) or not made:
        raise InvalidRequestError(
            "tools: a run needs a list of functions, as in tools=[get_weather]; without any, use create()",
            param="tools",
        )
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
    state = Conversation(
        params,
        rules=ToolRules(
            tools={each.name: each for each in known if isinstance(each, Tool)},
            on_error=on_tool_error,
            timeout=tool_timeout,
            concurrency=tool_concurrency,
            context=context,
            hooks=hooks,
            redact=redact,
        ),
        foreign=frozenset(name_of_tool(each) for each in known if not isinstance(each, Tool)),
        answer=None if answer is None else answer.in_run(),
        max_turns=max_turns,
        stream=stream,
        stop_when=stop_when,
    )
    return ToolRun(state, completions)
