"""`FanOut`: n choices of one prompt, read as one stream."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, cast

from ..assembly import CompletionAssembler
from ..errors import GradientError
from ..output import Answer, parse_so_far
from ..stream import ChoiceStream, ChunkStream, EventStream, Timing
from ..types import ChatCompletion, CompletionUsage, RateLimits
from .merge import Chunks
from .runner import FanOutResult, FanOutRunner

if TYPE_CHECKING:
    # `typing.TypeVar` has defaults from Python 3.13 on. Type checkers know `typing_extensions` even where it is not installed.
    from typing_extensions import TypeVar

    C_co = TypeVar("C_co", bound=ChatCompletion, default=ChatCompletion, covariant=True)
else:
    from typing import TypeVar

    C_co = TypeVar("C_co", covariant=True)


class FanOut(ChunkStream, Generic[C_co]):
    """n choices of one prompt as one stream: the chunks of all choices as they arrive, with indices from 0 to n - 1.

    Requests are sent on entering ``async with``, and requests in flight are cancelled on leaving. Chunks keep the id of
    their own completion; the usage in a chunk is that of all requests so far. A fan-out has several replies, so it has
    no bytes, status, headers or body; `results` has the request id, the headers and the body for each choice.

    Args:
        runner: Runs the requests.
        assembler: Gets the chunks that have been read.
        buffered: How many characters a reader may fall behind.
        answer: The form of the answers; None if the request names no type.

    Raises:
        FanOutError: From iterating, unless errors are collected: choices failed and the others were cancelled.
            Raised after everything received has been read.
        StreamLimitError: From iterating, if the replies together exceed the `Limits` for n choices.
    """

    def __init__(
        self,
        runner: FanOutRunner,
        assembler: CompletionAssembler,
        *,
        buffered: int,
        answer: Answer[Any] | None = None,
    ) -> None:
        super().__init__(runner.merged, assembler, buffered=buffered, answer=answer)
        self._runner = runner
        self._merged = runner.merged

    if TYPE_CHECKING:

        @property
        def snapshot(self) -> C_co:
            """The completion as far as it has been read."""
            ...

        @property
        def current_completion_snapshot(self) -> C_co:
            """The same as `snapshot`."""
            ...

        async def get_final_completion(self) -> C_co:
            """The same as `completion`."""
            ...

    async def completion(self) -> C_co:
        """Read to the end; return one completion with the choices that are whole, under their own indices.

        With ``stop_when`` or ``first``, it has the accepted choices if there are enough of them. If the fan-out was
        not entered, this method sends the requests.

        Raises:
            FanOutError: If choices failed, unless errors are collected.
        """
        runner, merged = self._runner, self._merged
        if not runner.started:
            async with self:
                return await self.completion()
        # While another task waits for chunks, they must go to that task.
        if not self._cursor.filling:
            merged.on_chunks = self._read_chunks
            if self._cursor.queues is None:
                merged.skip()
        try:
            return cast("C_co", await super().completion())
        finally:
            merged.on_chunks = None
            merged.stop_skipping()

    def whole(self) -> ChatCompletion:
        """Return the completion without choices that are not whole; if enough were accepted, only with these."""
        runner, completion = self._runner, self._received
        if runner.has_enough():
            kept = runner.winners
        else:
            kept = [result.index for result in runner.results if result.choice is not None]
        completion.choices = [choice for choice in completion.choices if choice.index in kept]
        return completion if self._answer is None else parse_so_far(completion, self._answer)

    def _read_chunks(self, chunks: Chunks) -> None:
        """Read chunks for the task that awaits the completion, and pass them to the readers of single choices."""
        self._cursor.read_past(chunks)

    @property
    def n(self) -> int:
        """Number of choices that were asked for."""
        return len(self._runner.results)

    @property
    def results(self) -> list[FanOutResult[C_co]]:
        """The result of each choice so far, by index."""
        return list(self._runner.results)

    @property
    def errors(self) -> dict[int, GradientError]:
        """The errors so far, by index of the choice."""
        return {result.index: result.error for result in self._runner.results if result.error is not None}

    @property
    def winners(self) -> list[int]:
        """Indices of the choices accepted by ``stop_when`` and ``first``, in the order in which they finished."""
        return list(self._runner.winners)

    @property
    def winner(self) -> int | None:
        """The first of the winners, or None."""
        return self._runner.winners[0] if self._runner.winners else None

    # Views that need the stream's assembler to have everything received so far

    def events(self) -> EventStream:
        """The stream as typed events; shares the cursor."""
        self._merged.stop_skipping()
        return super().events()

    def choice(self, index: int) -> ChoiceStream:
        """The chunks of one choice; several tasks may read several choices.

        Args:
            index: Index of the choice, from 0. The stream of a choice that never arrives is empty.
        """
        self._merged.stop_skipping()
        return super().choice(index)

    @property
    def id(self) -> str:
        """The id of the completion that arrived first; "" until it is known."""
        self._merged.stop_skipping()
        return super().id

    @property
    def usage(self) -> CompletionUsage | None:
        """The token usage of all requests that have reported it; None until one has."""
        self._merged.stop_skipping()
        return super().usage

    # Data of the replies

    @property
    def request_id(self) -> str | None:
        """The server's id of the request that was answered first."""
        return self._merged.request_id

    @property
    def request_ids(self) -> list[str | None]:
        """The server's ids of the requests, by index of the choice."""
        return [result.request_id for result in self._runner.results]

    @property
    def rate_limits(self) -> RateLimits | None:
        """The rate limits in the headers of the latest reply."""
        return self._merged.rate_limits

    @property
    def attempts(self) -> int:
        """Number of requests made so far, with those that raced or failed; retries count once the request is over."""
        return self._merged.attempts

    @property
    def anomalies(self) -> int:
        """Number of events, in all replies, that were repaired or skipped."""
        return self._merged.anomalies

    @property
    def timing(self) -> Timing:
        """Durations in seconds, from the start of all requests."""
        return self._merged.timing

    # Leaving

    async def aclose(self) -> None:
        """Cancel the requests in flight; their connections are closed at once."""
        await self._runner.close()

    async def close(self) -> None:
        """The same as `aclose`."""
        await self._runner.close()

    def start(self) -> None:
        """Send the requests; the same as entering ``async with``."""
        self._runner.start()

    @property
    def started(self) -> bool:
        """Whether the requests have been sent."""
        return self._runner.started

    async def __aenter__(self) -> Self:
        self._runner.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.close()

    def __repr__(self) -> str:
        done = sum(result.state not in {"waiting", "running"} for result in self._runner.results)
        return f"<FanOut {done} of {self.n} choices done>"

    def __del__(self) -> None:
        runner = getattr(self, "_runner", None)  # None if __init__ failed
        if runner is not None and runner.abandoned:
            runner.abandon()
            warnings.warn(
                f"{self!r} was dropped before its end; {self.advice}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
