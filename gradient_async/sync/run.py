"""`run` for threads: the streams are those of `Gradient`, and the tools run in the event loop."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Awaitable, Callable, Generator
from inspect import isawaitable
from types import GeneratorType
from typing import Any, Self, TypeAlias, TypeVar, cast, overload

from ..client.conversation import Conversation
from ..client.run import BaseRun, C_co
from ..client.turn import TurnTools
from ..errors import OutputError
from ..events import ToolRunEvent
from ..types import ParsedChatCompletion
from .loop import LoopThread
from .streams import Closing

T = TypeVar("T")
StopWhen: TypeAlias = "Callable[[ToolRun[Any]], bool | Awaitable[bool]]"


class ToolRun(Closing, BaseRun[C_co]):
    """A conversation in which the model calls functions until it has an answer: an iterator of events, used by ``with``.

    Functions that are not async run in threads, and may use the client. Those that are async run in the event loop of the
    client.

    Args:
        state: The state of the run.
        completions: The resource whose methods ``stream`` and ``create`` make the requests.
        loop: The loop.
    """

    advice = "use 'with', or call close()"
    _reader = "thread"

    def __init__(self, state: Conversation, completions: Any, loop: LoopThread) -> None:
        self.state = state
        events = _events(state, completions, loop, weakref.ref(self))
        self._events = cast("GeneratorType[ToolRunEvent, None, None]", events)

    def completion(self) -> C_co:
        """Read the rest of the run; return the completion of its last turn. It raises the errors of the run with asyncio."""
        for _ in self:
            pass
        return self._last()

    def __iter__(self) -> Self:
        return self

    @overload
    def __next__(self: ToolRun[ParsedChatCompletion[T]]) -> ToolRunEvent[T]: ...
    @overload
    def __next__(self) -> ToolRunEvent: ...
    def __next__(self) -> ToolRunEvent:
        if self._is_over():
            raise StopIteration
        return next(self._events)

    def close(self) -> None:
        """Cancel the tools, wait until they have ended, and close the stream."""
        if not self._is_over():
            self._events.close()

    @property
    def _frame(self) -> object:
        return self._events.gi_frame

    @property
    def _running(self) -> bool:
        return self._events.gi_running


def _events(
    state: Conversation, completions: Any, loop: LoopThread, run: Callable[[], ToolRun[Any] | None]
) -> Generator[ToolRunEvent]:
    """Make the requests of a run, and yield its events."""
    turn = 0
    try:
        while not state.complete:
            turn = len(state.turns)
            request = state.request()
            if state.stream:
                with completions.stream(**request) as stream:
                    # The error is suppressed here, because `receive` raises it if this is the last turn.
                    with contextlib.suppress(OutputError):
                        for event in stream.events():
                            yield state.of_turn(event)
                    completion = stream.snapshot
            else:
                completion = completions.create(**request)
                yield from state.events_of(completion)
            tools = state.receive(completion)
            if tools is None:
                return
            yield from tools.started
            yield from _run(tools, loop)
            if state.stop_when is not None:
                answer = state.stop_when(run())  # `run()` is not None: a run exists while its generator runs
                state.complete = bool(loop.call(_same, answer) if isawaitable(answer) else answer)
    except Exception as error:
        state.fail(error, turn)
        raise


def _run(tools: TurnTools, loop: LoopThread) -> Generator[ToolRunEvent]:
    """Run the tools of a turn, and yield their events."""
    try:
        while (finished := loop.call(tools.next, undo=lambda _: tools.stop())) is not None:
            yield finished
    finally:
        if loop.runs_here:  # the garbage collector has dropped the run in the thread of the loop
            tools.cancel()
        elif loop.usable:  # if not usable, the process ends, or the tools belong to the parent process
            loop.call(tools.stop)


def _same(answer: Any) -> Any:
    """Return what is to be awaited in the loop."""
    return answer
