"""Runs the tools of one turn of a run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from inspect import isawaitable
from typing import Any

import msgspec

from ..errors import GradientError, ToolArgumentsError, escape
from ..events import ToolFinishedEvent, ToolStartedEvent
from ..hooks import Hook, ToolInfo, tell
from ..tools import Tool, ToolContext, result_text, text_of_error
from ..types import ToolCall

_MAX_ID = 80  # maximum characters of the id of a call that a note shows


class ToolRules(msgspec.Struct, frozen=True, kw_only=True):
    """How the tools of a run are called.

    Attributes:
        tools: The tools with functions, by name.
        on_error: How exceptions of functions are handled; see `Completions.run`.
        timeout: Time limit of tools without a limit of their own, or None.
        concurrency: Maximum number of tools that run at once, or None.
        context: The object for `ToolContext`.
        hooks: Observers of the functions.
        redact: Removes keys from a text, for the hooks.
    """

    tools: dict[str, Any]
    on_error: Any
    timeout: float | None
    concurrency: int | None
    context: Any
    hooks: tuple[Hook, ...] = ()
    redact: Callable[[str], str] = str


class PendingCall(msgspec.Struct, kw_only=True):
    """One call of a turn.

    Attributes:
        index: Position among the calls of the message.
        call: The call, with an id.
        tool: The tool of the called name, or None.
        arguments: The arguments of the function, or the text if the call is faulty.
        fault: Why the function cannot be called, or None.
    """

    index: int
    call: ToolCall
    tool: Any
    arguments: Any
    fault: ToolArgumentsError | None = None

    def facts(self, turn: int) -> dict[str, Any]:
        """Return the fields that both events of the call have."""
        return {
            "turn": turn,
            "index": self.index,
            "id": self.call.id,
            "name": self.call.function.name,
            "arguments": self.arguments,
            "call": self.call,
        }


def pending_call(rules: ToolRules, index: int, call: ToolCall) -> PendingCall:
    """Find the tool of a call, and decode the arguments."""
    name, text = call.function.name, call.function.arguments
    tool: Tool[..., Any] | None = rules.tools.get(name)
    pending = PendingCall(index=index, call=call, tool=tool, arguments=text)
    if tool is None:
        names = ", ".join(rules.tools) or "none"
        pending.fault = ToolArgumentsError(f"There is no tool {escape(name, 80)}. Tools: {names}")
        return pending
    try:
        pending.arguments = tool.arguments(text)
    except ToolArgumentsError as error:
        pending.fault = error.with_traceback(None)
    return pending


class TurnTools:
    """Runs the tools of one turn, each in a task of its own. The first call of `next` starts the tasks.

    Args:
        turn: Number of the turn.
        calls: The calls.
        rules: How tools are called.
        messages: The history so far.
        on_results: Called with the texts for the model, when the last tool has finished.

    Attributes:
        started: The events that announce the calls.
        failure: The exception that ends the run, or None.
    """

    def __init__(
        self,
        turn: int,
        calls: Sequence[PendingCall],
        rules: ToolRules,
        *,
        messages: list[Any],
        on_results: Callable[[list[str]], None],
    ) -> None:
        self._turn = turn
        self._calls = calls
        self._rules = rules
        self._messages = messages
        self._on_results = on_results
        self._contents: dict[int, str] = {}
        self._slots = asyncio.Semaphore(rules.concurrency or len(calls))
        self._finished = asyncio.Queue[ToolFinishedEvent | None]()
        self.started = [ToolStartedEvent(**call.facts(turn)) for call in calls]
        self.failure: BaseException | None = None
        self._begun = False
        # Whether the tools are being cancelled. Then no further tool starts, and a CancelledError does not come from a tool.
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def next(self) -> ToolFinishedEvent | None:
        """Return the event of the next tool that finishes; None after the last.

        Raises:
            BaseException: The failure that ends the run.
        """
        if not self._begun:
            self._begin()
        event = await self._finished.get()
        if event is not None:
            return event
        failure, self.failure = self.failure, None
        if failure is None and len(self._contents) < len(self._calls):
            failure = GradientError("a tool was cancelled, and not by the reader of the run")
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # the traceback of the failure refers to this frame
        return None

    def _begin(self) -> None:
        self._begun = True
        for call in self._calls:
            # An eager task runs its first step in `create_task`. If its tool fails there, later tasks do nothing,
            # because `_stopping` is set.
            task = asyncio.create_task(self._work(call))
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    async def stop(self) -> None:
        """Cancel the tools and wait until all have ended. Another cancellation cancels them again, and does not end the wait."""
        self.cancel()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
        except asyncio.CancelledError:
            while self._tasks:
                self.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait(self._tasks)
            raise
        finally:
            self.failure = None  # the traceback of the failure refers to this object

    def cancel(self) -> None:
        """Cancel the tools."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)  # the task may hold a CancelledError, whose traceback refers to this object
        if not self._tasks:
            self._finished.put_nowait(None)

    async def _work(self, call: PendingCall) -> None:
        async with self._slots:
            if self._stopping:
                return  # the semaphore had already admitted this task when the tools were cancelled
            began = time.perf_counter()
            try:
                # The error must not be in a local variable: its traceback refers to this frame, which would be a cycle.
                self._record(call, began, *await self._attempt(call))
            except BaseException as raised:  # noqa: BLE001  # the run raises it
                # The error is kept for `next` to raise. A task that raises KeyboardInterrupt or SystemExit ends the event loop.
                if not self._stopping:
                    self.cancel()
                    if not isinstance(raised, asyncio.CancelledError):
                        self.failure = raised
                        called = escape(self._rules.redact(call.call.id), _MAX_ID)
                        raised.add_note(f"tool {call.call.function.name}, call {called}")

    def _record(
        self, call: PendingCall, began: float, result: Any, content: str, error: Exception | None
    ) -> None:
        if self._stopping:
            return  # the tool has ignored its cancellation: the run has ended
        seconds = time.perf_counter() - began
        self._finished.put_nowait(
            ToolFinishedEvent(
                **call.facts(self._turn), content=content, result=result, error=error, seconds=seconds
            )
        )
        self._contents[call.index] = content
        if len(self._contents) == len(self._calls):
            self._on_results([self._contents[index] for index in range(len(self._calls))])

    async def _attempt(self, call: PendingCall) -> tuple[Any, str, Exception | None]:
        """Call the function; return its result, the text for the model, and the error in place of a result.

        Raises:
            BaseException: An exception that ends the run.
        """
        # Exceptions caught here must not be in local variables: their tracebacks refer to this frame, which would be a cycle.
        if call.fault is not None:
            return None, call.fault.message, call.fault
        name, rules = call.call.function.name, self._rules
        seconds: float | None = call.tool.timeout or rules.timeout
        limit = asyncio.timeout(seconds)
        try:
            result, content = await self._observe(call, limit)
        except (Exception, asyncio.CancelledError) as error:
            if self._stopping:
                raise
            if isinstance(error, asyncio.CancelledError):
                return await self._told(call, GradientError(f"{name} was cancelled, and not by the run"))
            if limit.expired():
                text = f"{name} did not finish within {seconds:g} s"
                return None, text, TimeoutError(text)
            return await self._told(call, error)
        return result, content, None

    async def _observe(self, call: PendingCall, limit: asyncio.Timeout) -> tuple[Any, str]:
        """Call the function within its time limit, and inform the hooks; return the result and the text for the model."""
        rules = self._rules
        tool = ToolInfo(
            call=call.call, description=call.tool.description, turn=self._turn, redact=rules.redact
        )
        for hook in rules.hooks:
            tell(hook.on_tool_start, tool)
        began = time.perf_counter()
        try:
            async with limit:
                context = ToolContext(
                    call=call.call, turn=self._turn, messages=self._messages, context=rules.context
                )
                result = await _result_of(call.tool, call.tool.keywords(call.arguments, context))
                return result, result_text(result)
        except BaseException as error:
            tool.error_type = type(error).__name__
            raise
        finally:
            tool.seconds = time.perf_counter() - began
            for hook in rules.hooks:
                tell(hook.on_tool_end, tool)

    async def _told(self, call: PendingCall, error: Exception) -> tuple[Any, str, Exception]:
        """Handle an error as `ToolRules.on_error` says: raise it, or return it with the text for the model."""
        rule: Any = self._rules.on_error
        try:
            if rule == "raise":
                raise error
            if rule == "tell":
                text = f"Error: {text_of_error(error)}"
            else:
                answer = rule(call.call, error)
                text = result_text(await answer if isawaitable(answer) else answer)
            return None, text, error
        finally:
            del error  # if the error was raised, the traceback of the error refers to this frame


async def _result_of(tool: Tool[..., Any], keywords: dict[str, Any]) -> Any:
    """Call a function; call it in a thread if it is not async, because it may block."""
    if tool.is_async:
        return await tool.function(**keywords)
    call = _ThreadCall(tool.function, keywords)
    try:
        result = await asyncio.to_thread(call.perform)
    finally:
        call.left = True
    if call.raised:
        raise call.raised.pop()  # `pop`, because the traceback refers to a frame that holds the list
    return await result if isawaitable(result) else result


class _ThreadCall:
    """A call of a function in a thread. If the run ends before the thread starts, the function is not called.

    Attributes:
        left: Whether the run no longer waits for the call.
        raised: A list with the exception of the function, or empty. The future of the thread can't carry every exception: it
            replaces a TimeoutError by another, and in Python 3.11 it never ends after a StopIteration.
    """

    def __init__(self, function: Callable[..., Any], keywords: dict[str, Any]) -> None:
        self._function = function
        self._keywords = keywords
        self.left = False
        self.raised: list[BaseException] = []

    def perform(self) -> Any:
        """Call the function; runs in the thread."""
        try:
            return None if self.left else self._function(**self._keywords)
        except BaseException as error:  # noqa: BLE001  # raised in the event loop
            if not self.left:
                self.raised.append(error)
