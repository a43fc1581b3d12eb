"""Runs the tools of one turn of a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from inspect import isawaitable
from typing import Any

import msgspec

from ..errors import GradientError, ToolArgumentsError
from ..events import ToolFinishedEvent
from ..hooks import Hook, ToolInfo, tell
from ..tools import Tool, ToolContext, result_text
from ..types import ToolCall


class ToolRules(msgspec.Struct, frozen=True, kw_only=True):
    """How the tools of a run are called.

    Attributes:
        tools: The tools with functions, by name.
        on_error: What becomes of an exception of a function; see `Completions.run`.
        timeout: Time limit of tools that have none, or None.
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
        tool: The tool, or None if there is none of this name.
        arguments: The arguments of the function, or the text if the call is faulty.
        fault: Why the function cannot be called, or None.
    """

    index: int
    call: ToolCall
    tool: Any
    arguments: Any
    fault: ToolArgumentsError | None

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


class TurnTools:
    """Runs the tools of one turn, each in a task of its own.

    Args:
        turn: Number of the turn.
        calls: The calls.
        rules: How tools are called.
        messages: The history so far.
        on_results: Called with the texts for the model, once all are known.

    Attributes:
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
        self.failure: BaseException | None = None
        # Whether the tools are being cancelled: no further one begins, and a CancelledError is none of a tool.
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        for call in calls:
            # An eager task has run its first step when it is returned. If the step has set `_stopping`, the next ones do nothing.
            task = asyncio.create_task(self._work(call))
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    async def next(self) -> ToolFinishedEvent | None:
        """Return the event of the next tool that finishes; None after the last.

        Raises:
            BaseException: The failure that ends the run.
        """
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
            del failure  # its traceback refers to this frame
        return None

    async def stop(self) -> None:
        """Cancel the tools and wait until they are gone. A cancellation meanwhile is passed on to them, and does not end the wait."""
        self._cancel()
        if self._tasks:
            try:
                await asyncio.wait(self._tasks)
            except asyncio.CancelledError:
                await self.stop()
                raise
        self.failure = None  # its traceback refers to this object

    def _cancel(self) -> None:
        self._stopping = True
        for task in self._tasks:
            task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)  # it may keep a CancelledError, whose traceback refers to this object
        if not self._tasks:
            self._finished.put_nowait(None)

    async def _work(self, call: PendingCall) -> None:
        async with self._slots:
            if self._stopping:
                return  # its task was to be woken when it was cancelled
            began = time.perf_counter()
            try:
                # No local variable may have the error: its traceback leads to this frame.
                self._record(call, began, *await self._attempt(call))
            except BaseException as raised:  # noqa: BLE001  # the run raises it
                # Not raised here: a task would raise KeyboardInterrupt and SystemExit into the event loop.
                if not self._stopping:
                    if not isinstance(raised, asyncio.CancelledError):
                        self.failure = raised
                        raised.add_note(f"tool {call.call.function.name}, call {call.call.id}")
                    self._cancel()

    def _record(
        self, call: PendingCall, began: float, result: Any, content: str, error: Exception | None
    ) -> None:
        if self._stopping:
            return  # the tool did not heed its cancellation, and the run has been left
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
            BaseException: If it ends the run.
        """
        # No local variable may have an exception that this frame catches, whose traceback refers to the frame.
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
        """Call the function within its time limit, and inform the hooks; return the result, and its text."""
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
        """Return what the model is told of an error, by the rule of the caller."""
        rule: Any = self._rules.on_error
        try:
            if rule == "raise":
                raise error
            if rule == "tell":
                said = str(error)
                text = f"Error: {type(error).__name__}" + (f": {said}" if said else "")
            else:
                answer = rule(call.call, error)
                text = result_text(await answer if isawaitable(answer) else answer)
            return None, text, error
        finally:
            del error  # if it was raised, its traceback refers to this frame


async def _result_of(tool: Tool[..., Any], keywords: dict[str, Any]) -> Any:
    """Call a function: in a thread if it may block."""
    if tool.is_async:
        return await tool.function(**keywords)
    raised: list[BaseException] = []
    result = await asyncio.to_thread(_call_in_thread, tool.function, keywords, raised)
    if raised:
        raise raised.pop()  # the traceback refers to the frame that has the list
    return await result if isawaitable(result) else result


def _call_in_thread(
    function: Callable[..., Any], keywords: dict[str, Any], raised: list[BaseException]
) -> Any:
    """Call a function; append what it raises to a list.

    A future would replace a TimeoutError by another, and in Python 3.11 would never be done after a StopIteration.
    """
    try:
        return function(**keywords)
    except BaseException as error:  # noqa: BLE001  # raised in the event loop
        raised.append(error)
