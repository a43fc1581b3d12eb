"""Runs the requests of a fan-out: decides which are sent and which are cancelled, and records each choice's result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast

import msgspec

from ..assembly import CompletionAssembler
from ..errors import (
    APIResponseValidationError,
    BadRequestError,
    FanOutError,
    GradientError,
    OutputError,
    StreamError,
    StreamTruncatedError,
    UnprocessableEntityError,
)
from ..output import Answer, describe_error, has_answer, judge, judge_choice
from ..session.loops import call_in, runs_here
from ..types import ChatCompletion, Choice, ParsedChatCompletion, ParsedChoice, ReceivedReply
from .branch import Branch, Requester
from .merge import MergedChunks, closed_error
from .tasks import later

if TYPE_CHECKING:
    # `typing.TypeVar` has defaults from Python 3.13 on. Type checkers know `typing_extensions` even where it is not installed.
    from typing_extensions import TypeVar

    C_co = TypeVar("C_co", bound=ChatCompletion, default=ChatCompletion, covariant=True)
else:
    from typing import TypeVar

    C_co = TypeVar("C_co", covariant=True)

T = TypeVar("T")
State: TypeAlias = Literal["waiting", "running", "completed", "failed", "stopped"]
StopWhen: TypeAlias = Callable[[Choice], bool | Awaitable[bool]]

# Errors of servers that do not accept ``n``.
_REFUSALS = (BadRequestError, UnprocessableEntityError)
# The largest ``n`` that DigitalOcean's API reference allows.
_MAX_N = 128


class FanOutOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a fan-out.

    Attributes:
        n: Number of choices.
        stream: Whether to stream the replies.
        native: Whether to ask for all choices in one request. With ``"auto"``, each choice that the server does not
            return then gets its own request.
        raise_errors: Whether the first error ends the fan-out.
        stop_when: Accepts or rejects a finished choice; None accepts every choice.
        first: Number of accepted choices that end the fan-out, or None.
        hedge_after: Seconds without content after which a second request races the first, or None.
        max_concurrency: Maximum number of requests in flight; requests that race for one choice count as one.
        answer: The form of the answers; None if the request names no type.
    """

    n: int
    stream: bool
    native: bool | Literal["auto"]
    raise_errors: bool
    stop_when: StopWhen | None
    first: int | None
    hedge_after: float | None
    max_concurrency: int
    answer: Answer[Any] | None = None


class FanOutResult(ReceivedReply, msgspec.Struct, Generic[C_co], kw_only=True):
    """The result of one choice.

    Attributes:
        index: Index of the choice.
        state: ``"waiting"`` to be sent, ``"running"``, ``"completed"``, ``"failed"``, or ``"stopped"`` because
            other choices were enough or failed.
        choice: The choice, once it is whole; a `ParsedChoice` if the request names a type.
        id: Id of the completion that contained the choice, or "".
        request_id: The server's id of the request, or None.
        requests: Number of requests sent for the choice: two, if a second request raced the first.
        error: The error of the request or of the answer, or None.
        headers: Headers of the reply that has the choice; empty before the reply.
        body: The reply as plain JSON with all fields of the server, if it was awaited (``stream=False``).
    """

    index: int
    state: State = "waiting"
    choice: Choice | None = None
    id: str = ""
    request_id: str | None = None
    requests: int = 0
    error: GradientError | None = None

    @property
    def parsed(self: FanOutResult[ParsedChatCompletion[T]]) -> T | None:
        """The value of a typed answer: ``choice.message.parsed``; None as long as there is none."""
        is_parsed = isinstance(self.choice, ParsedChoice)
        return cast("ParsedChoice[T]", self.choice).message.parsed if is_parsed else None


class FanOutRunner:
    """Runs the requests of a fan-out: a main task, and within it a task for each request.

    Args:
        options: The options.
        requester: Sends requests.
        assembler: The stream's assembler.

    Attributes:
        merged: The chunks of all requests.
        results: The result of each choice.
        winners: Indices of the accepted choices, in the order in which they finished.
    """

    def __init__(
        self,
        options: FanOutOptions,
        requester: Requester,
        assembler: CompletionAssembler,
    ) -> None:
        self._options = options
        self._requester = requester
        self._slots = asyncio.Semaphore(options.max_concurrency)
        self.merged = MergedChunks(assembler, self._cancel)
        self.results = [FanOutResult[Any](index=index) for index in range(options.n)]
        self.winners: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._main: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False  # whether requests are being cancelled because others were enough, or failed
        self._cancelled = False  # whether the main task was cancelled

    # Starting and stopping

    def start(self) -> None:
        """Begin, in the running loop.

        Raises:
            TypeError: If the fan-out has begun before.
        """
        if self._main is not None:
            raise TypeError("a fan-out can be entered once only: make a new fan-out")
        self._loop = asyncio.get_running_loop()
        self.merged.start()
        self._main = asyncio.create_task(later(self._run))

    @property
    def started(self) -> bool:
        """Whether the fan-out has begun."""
        return self._main is not None

    @property
    def abandoned(self) -> bool:
        """Whether requests may be in flight that were not cancelled."""
        return self.merged.open and not self._cancelled

    async def close(self) -> None:
        """Cancel all requests, and wait until the main task has ended."""
        self._cancel()
        if self._main is not None and not self._main.done():
            await asyncio.wait((self._main,))
        self.merged.forget_callers_error()

    def abandon(self) -> None:
        """Cancel all requests from a finaliser, which may run in any thread."""
        if self._loop is None:
            return
        if runs_here(self._loop):
            self._cancel()
        else:
            call_in(self._loop, self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._main is not None:
            self._main.cancel()

    # The main task

    async def _run(self) -> None:
        error: Exception | None
        error = closed_error()
        try:
            await self._send_requests()
            error = self._judge_end()
        except asyncio.CancelledError as cancelled:
            cancelled.with_traceback(None)
        except BaseExceptionGroup as group:
            # Errors of requests are in the results. The error of the group comes from the caller's ``stop_when`` or
            # parameters. The reader gets it unchanged, even if it is only a BaseException, as test tools raise.
            error = cast("Exception", group.exceptions[0])
            group.with_traceback(None)
        except (KeyboardInterrupt, SystemExit) as fatal:
            # The event loop has already raised this exception in its task. The reader gets the exception as well.
            error = cast("Exception", fatal.with_traceback(None))
        finally:
            # The tracebacks are removed because a frame of the task group refers to the exception that it raises.
            self._tasks.clear()  # a task keeps its exception, and the frames of the exception refer to this object
            for result in self.results:
                if result.state in {"waiting", "running"}:
                    result.state = "stopped"
            self.merged.finish(error)

    async def _send_requests(self) -> None:
        n, native = self._options.n, self._options.native
        if native and n > 1:
            async with asyncio.TaskGroup() as group:
                self._create_task(group, partial(self._request_all, n if native is True else min(n, _MAX_N)))
        async with asyncio.TaskGroup() as group:
            for result in self.results:
                if result.state == "waiting" and not self._stopping:
                    self._create_task(group, partial(self._request_one, result))

    def _create_task(self, group: asyncio.TaskGroup, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.append(group.create_task(later(work)))

    def _judge_end(self) -> Exception | None:
        """Return the error of the whole fan-out, or None."""
        errors: dict[int, Exception] = {
            result.index: result.error for result in self.results if result.error is not None
        }
        if not self._stopping and any(result.state in {"waiting", "running"} for result in self.results):
            # A task ended without a result. Without an error, the missing result would not be noticed.
            return GradientError("a request was cancelled, and not by its fan-out")
        if self.has_enough() or not errors:
            return None
        # A caller that asked for a valid answer must get an error if there is none, also with on_error="collect".
        waiting = self._options.answer is not None and self._options.first is not None
        if not (self._options.raise_errors or (waiting and len(errors) == len(self.results))):
            return None
        first = next(iter(errors.values()))
        others = ", and the others were given up" if self._stopping else ""
        return FanOutError(
            f"{len(errors)} of {self._options.n} choices failed{others}: {first}",
            list({id(error): error for error in errors.values()}.values()),
            errors=errors,
        )

    def has_enough(self) -> bool:
        """Whether as many choices were accepted as ``first`` asks for."""
        first = self._options.first
        return first is not None and len(self.winners) >= first

    # Requests

    async def _request_one(self, result: FanOutResult[Any]) -> None:
        """Send the request of one choice."""
        branch = Branch(
            self._requester,
            self.merged,
            streamed=self._options.stream,
            index=result.index,
        )
        branch.on_request = partial(self._update, result)
        try:
            async with self._slots:
                await branch.run(hedge_after=self._options.hedge_after)
        except GradientError as error:
            if isinstance(error, StreamError) and error.partial is not None:
                for choice in error.partial.choices:
                    choice.index = result.index
            self._fail([result], error)
        else:
            # A reply without a choice is an error.
            choice = msgspec.structs.replace(branch.choices[0], index=result.index)
            await self._complete(result, choice, branch)
        finally:
            self._update(result, branch)

    async def _request_all(self, n: int) -> None:
        """Send one request for n choices."""
        options = self._options
        auto = options.native == "auto"
        branch = Branch(
            self._requester,
            self.merged,
            streamed=options.stream,
            n=n,
            expect=1 if auto else n,
        )
        if options.first is not None:
            branch.on_finish = self._on_finish
        failure: GradientError | None = None
        try:
            await branch.run(hedge_after=options.hedge_after)
        except GradientError as error:
            failure = error.with_traceback(None)
        # If the reply broke off or was stopped, only finished choices count.
        whole = failure is None and not self._stopping
        came = set[int]()
        for choice in self._choices_of(branch):
            if whole or branch.is_finished(choice):
                came.add(choice.index)
                await self._complete_from(branch, choice)
        missing = [result for result in self.results if result.index not in came]
        if not missing or self._stopping:
            return
        if failure is None and not auto:
            failure = self._missing(
                f"the server gave {len(came)} of {options.n} choices; "
                "native='auto' makes requests for the others"
            )
        if failure is not None and not (auto and isinstance(failure, _REFUSALS)):
            self._fail(missing, failure)

    def _choices_of(self, branch: Branch) -> list[Choice]:
        """Return the choices of a reply to a request for n choices, without any further choices."""
        return [choice for choice in branch.choices if choice.index < self._options.n]

    async def _on_finish(self, branch: Branch, index: int) -> bool:
        """Note that one of several choices of a reply has its finish_reason; return whether enough are accepted."""
        for choice in self._choices_of(branch):
            if choice.index == index:
                await self._complete_from(branch, choice)
        return self.has_enough()

    async def _complete_from(self, branch: Branch, choice: Choice) -> None:
        result = self.results[choice.index]
        self._update(result, branch)
        if result.state not in {"completed", "failed"}:
            await self._complete(result, choice, branch)

    def _missing(self, message: str) -> GradientError:
        return (StreamTruncatedError if self._options.stream else APIResponseValidationError)(message)

    # Results

    def _update(self, result: FanOutResult[Any], branch: Branch) -> None:
        """Copy ids and the number of requests from a branch to a result."""
        if result.state == "waiting" and branch.requests:
            result.state = "running"
        result.requests = branch.requests
        result.id, result.request_id = branch.id, branch.request_id
        branch.describe(result)

    async def _complete(self, result: FanOutResult[Any], choice: Choice, branch: Branch) -> None:
        answer = self._options.answer
        if answer is not None:
            choice, error = judge_choice(choice, answer)
            if error is not None:
                reply = cast("ChatCompletion", branch.completion)
                alone = msgspec.structs.replace(reply, choices=[choice])
                alone.receive_as(reply)
                self._fail([result], describe_error(error, judge(alone, answer)[0]))
                return
        result.state, result.choice = "completed", choice
        if self._options.first is None or self.has_enough():
            return
        if answer is not None and not has_answer(choice.message):
            return  # a refusal is a choice, but does not win
        accepted: Any = True
        if self._options.stop_when is not None:
            accepted = self._options.stop_when(choice)
            if isawaitable(accepted):
                accepted = await accepted
        # Enough other choices may have been accepted while ``stop_when`` was awaited.
        if accepted and not self.has_enough():
            self.winners.append(result.index)
            if self.has_enough():
                self._stop()

    def _fail(self, results: Iterable[FanOutResult[Any]], error: GradientError) -> None:
        error.with_traceback(None)  # the traceback's frames hold what was received
        for result in results:
            result.state, result.error = "failed", error
        if self._options.raise_errors and not self.has_enough() and not self._is_patient(error):
            self._stop()

    def _is_patient(self, error: Exception) -> bool:
        """Whether the other requests continue after an error: one invalid answer does not make the others invalid."""
        return isinstance(error, OutputError) and self._options.first is not None

    def _stop(self) -> None:
        """Cancel the other requests."""
        self._stopping = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
