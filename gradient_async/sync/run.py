"""`run` for threads: the run itself stays in the loop, and each event is handed over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeAlias, cast

from ..client.run import C_co
from ..client.run import ToolRun as AsyncToolRun
from ..events import ToolRunEvent
from ..types import ChatCompletion, CompletionUsage
from .loop import LoopThread
from .streams import Closing

StopWhen: TypeAlias = "Callable[[ToolRun[Any]], bool | Awaitable[bool]]"


class ToolRun(Closing, Generic[C_co]):
    """A conversation in which the model calls functions until it has an answer: an iterator of events, used by ``with``.

    Functions that are not async run in threads, and may use the client. Those that are async run in the event loop of the
    client.

    Args:
        run: The run for asyncio.
        loop: The loop.
    """

    def __init__(self, run: AsyncToolRun[C_co], loop: LoopThread) -> None:
        self._run = run
        self._loop = loop
        run.advice = "use 'with', or call close()"

    @property
    def turns(self) -> list[ChatCompletion]:
        """The completions so far: that of an event, once it is whole, is ``run.turns[event.turn]``."""
        return self._run.turns

    @property
    def messages(self) -> list[Any]:
        """The conversation so far, which can be sent at any time: a message that calls tools is added with all its results."""
        return self._run.messages

    @property
    def usage(self) -> CompletionUsage | None:
        """The usage of all turns so far, added up; None if no reply told it."""
        return self._run.usage

    def completion(self) -> C_co:
        """Read what is left of the run; return the completion of its last turn. The errors are those of the run for asyncio."""
        return cast("C_co", self._call(self._run.completion))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ToolRunEvent:
        try:
            return cast("ToolRunEvent", self._call(self._run.__anext__))
        except StopAsyncIteration:
            pass
        raise StopIteration

    def _call(self, function: Callable[[], Any]) -> Any:
        return self._loop.call(function, undo=lambda _: self._run.aclose())

    def close(self) -> None:
        """Cancel the tools, wait until they are gone, and close the stream."""
        if self._loop.usable:
            self._loop.call(self._run.aclose)

    def __repr__(self) -> str:
        return repr(self._run)
