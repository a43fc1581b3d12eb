"""The event loop of `Gradient`, in a thread of its own, and how other threads hand calls to it.

**The thread.** The first call of a process starts one daemon thread with one event loop, for all clients (`LoopThread`). A
loop for each call could not keep connections. A loop in the caller's thread would not work where a loop runs already, as
in a notebook, and no time limit of an open stream would be enforced while the thread makes no call.

**Handing over.** `LoopThread.call` hands a function to the loop and waits on a lock until the loop has run it. The function is
called in the loop's thread, so that a call which is interrupted early leaves no coroutine that was never awaited. The
function gets the context variables of the calling thread. An error of the function is raised in the calling thread, with its
traceback, and the call does not refer to it any more.

**Interrupts.** An exception that ends the wait, such as KeyboardInterrupt, cancels the function in the loop. If the function
has a result all the same, the result is undone. A stream whose read is interrupted is closed. The exception is raised when
this is done, or after two seconds. The thread wakes four times a second to look for exceptions, because some exceptions do not
end a wait on a lock: Ctrl-C on Windows, and exceptions that a debugger sets for a thread.

**Fork.** The child has the parent's loop without its thread. It keeps this loop and its streams untouched, because the two
processes share its sockets, and starts its own loop with its first call. Streams of the parent can't be read in the child.

**Exit.** An atexit handler closes open streams and ends the loop and its thread. It is registered when this module is
imported, so it runs after handlers that programs register later, which may still make calls. A daemon thread that is waiting
for a call then stays blocked until the process is gone. An error raised there would only print a traceback.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, ClassVar, NoReturn

from ..errors import ConfigurationError
from ..session.forks import keep_for_ever
from ..stream import ChunkStream

# Seconds after which a waiting thread looks for exceptions.
LOOK = 0.25
# Seconds to wait until an interrupted call has been cancelled, and until the loop has ended at the end of the process.
_PATIENCE = 2.0
_ENDED = "the interpreter is shutting down"
# No code sets this event.
_NEVER = threading.Event()


class CarriedError(Exception):
    """Carries an error of the caller's code through the loop, because asyncio gives the error another meaning.

    KeyboardInterrupt and SystemExit would end the loop; CancelledError and GeneratorExit would end a task or a generator.
    `LoopThread.wait` raises the error itself.

    Attributes:
        error: The error.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Call:
    """A function that the loop runs for a thread.

    Attributes:
        done: Locked until the function has ended.
        result: The result of the function, or None.
        error: The exception of the function, or None.
    """

    __slots__ = ("_answered", "_arguments", "_function", "_task", "done", "error", "result")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._task: asyncio.Task[None] | None = None
        self._answered = False
        self.done = threading.Lock()
        self.done.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def started(self) -> bool:
        """Whether the loop has begun the function, or `answer` has given a result in its place."""
        # The lock `done` does not show this, because the thread that waited has locked it again.
        return self._task is not None or self._answered

    def answer(self, result: Any) -> None:
        """Give a result to the waiting thread, without calling the function."""
        self.result = result
        self._answered = True
        self.done.release()

    def start(self, loop: LoopThread) -> None:
        """Start the function; must be called in the loop's thread."""
        self._task = loop.loop.create_task(self._run(loop))

    async def _run(self, loop: LoopThread) -> None:
        try:
            result = self._function(*self._arguments)
            self.result = await result if isawaitable(result) else result
        except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
            self.error = error
        # `done` lets the waiting thread continue before this task ends. If the thread then drops a stream or a journal,
        # this task must not hold another reference.
        self._function, self._arguments, result = nothing, (), None
        if not loop.ending:
            self.done.release()

    async def give_up(self, undo: Callable[[Any], object]) -> None:
        """Cancel the call of an interrupted thread, and undo its result."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        undone = undo(self.result)
        if isawaitable(undone):
            await undone
        self.error = None  # the traceback of the error refers to this object


def nothing(*_arguments: object) -> None:
    """Do nothing."""


class LoopThread:
    """The event loop of this process, and its thread.

    Attributes:
        loop: The event loop.
        ending: Whether the process ends.
        inherited: Whether the loop belongs to the parent of this process.
        open: The streams to close at the end of the process. Only the loop's thread changes the set.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ending = False
        self.inherited = False
        self.open = weakref.WeakSet[ChunkStream]()
        # Only the first of these threads runs the loop, see `begin`. `append` is atomic, so there is exactly one first thread.
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Start the thread, unless it runs already.

        This method takes no lock: a signal handler may call it while the interrupted thread is in this method, and would wait
        for ever. If an interrupt ends this method early, the next call starts another thread. Then the first thread to reach
        `_is_first` runs the loop, and the other thread ends.
        """
        if self._threads:
            return
        try:
            threading.Thread(target=self._run, name="gradient-async", daemon=True).start()
        except RuntimeError as error:  # too many threads; or Python 3.12.0 or 3.12.1 ends the process
            raise ConfigurationError(f"the thread of the event loop did not start: {error}") from error

    def _is_first(self) -> bool:
        """Whether this thread is the first that calls this method."""
        self._threads.append(threading.current_thread())
        return self._threads[0] is threading.current_thread()

    @property
    def usable(self) -> bool:
        """Whether the loop runs in this process."""
        return not (self.ending or self.inherited)

    @property
    def runs_here(self) -> bool:
        """Whether this thread is the thread of the loop."""
        return bool(self._threads) and threading.get_ident() == self._threads[0].ident

    def _run(self) -> None:
        if not self._is_first():
            return
        # The runner cancels tasks, closes sessions and closes the loop. It also waits for functions in threads, although they have
        # ended by then, and needs a thread for that, which Python 3.12.0 and 3.12.1 do not start at the end of a process.
        with contextlib.suppress(RuntimeError), asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop()
            while not self.ending:
                # If a task raises one of these exceptions, for example because a hook calls `sys.exit`, `run_forever` ends.
                with contextlib.suppress(KeyboardInterrupt, SystemExit):
                    self.loop.run_forever()

    def call(
        self, function: Callable[..., Any], *arguments: Any, undo: Callable[[Any], object] = nothing
    ) -> Any:
        """Run a function in the loop, and wait for its result.

        Args:
            function: A function, or a coroutine function.
            *arguments: Its arguments.
            undo: If this thread is interrupted, called in the loop with the result, or with None.

        Raises:
            ConfigurationError: If the loop can't be used here.
        """
        if not self.usable or self.runs_here:
            self._refuse()
        call = Call(function, arguments)
        return self.wait(call, undo, lambda: self.hand(call.start, self))

    def hand(self, function: Callable[..., object], *arguments: Any) -> None:
        """Let the loop call a function, without waiting for the call.

        Raises:
            ConfigurationError: If the loop has just ended.
        """
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed
            self._refuse()

    def wait(
        self,
        call: Call,
        undo: Callable[[Any], object],
        begin: Callable[[], object],
        on_look: Callable[[], object] = nothing,
    ) -> Any:
        """Wait for the result of a call.

        Args:
            call: The call.
            undo: The same as for `call`.
            begin: Called first. If it is interrupted, the call is interrupted.
            on_look: Called each time this thread has looked for exceptions.
        """
        try:
            begin()
            while not call.done.acquire(timeout=LOOK):
                on_look()
        except BaseException:
            ending = Call(call.give_up, (undo,))
            self.hand(ending.start, self)
            ending.done.acquire(timeout=_PATIENCE)
            raise
        if call.error is None:
            return call.result
        error, call.error = call.error, None
        if isinstance(error, CarriedError):
            error = error.error
        try:
            raise error
        finally:
            del error, call  # otherwise the error's traceback and this frame would form a cycle

    def _refuse(self) -> NoReturn:
        if self.ending and threading.current_thread().daemon:
            _NEVER.wait()  # see "Exit" in the docstring of this file
        raise ConfigurationError(self._problem())

    def _problem(self) -> str:
        if self.inherited:
            return (
                "this process was forked, and the stream or results belong to its parent: make new ones here"
            )
        if self.ending:
            return _ENDED
        return (
            "a hook of this client runs in its event loop, where a call would wait for itself: "
            "make the call in another thread"
        )

    def end(self) -> None:
        """Close open streams, end the loop and its thread, and wait at most two seconds for the thread."""
        if self._is_first():  # the thread never began
            self.ending = True
            self.loop.close()
            return
        self.loop.call_soon_threadsafe(self._stop)
        self._threads[0].join(_PATIENCE)

    def _stop(self) -> None:
        self.ending = True
        try:
            for stream in list(self.open):
                stream.leave()
        finally:
            self.loop.stop()


class Process:
    """The loop of this process.

    Attributes:
        loops: Empty, or a list whose first item is the loop.
        ended: Whether the process ends.
    """

    loops: ClassVar[list[LoopThread]] = []
    ended = False


def loop_thread() -> LoopThread:
    """Return the loop of this process, and start it if it does not run."""
    loops = Process.loops
    if not loops:
        if Process.ended:  # a finalizer makes a call, but a thread can't start any more
            raise ConfigurationError(_ENDED)
        made = LoopThread()
        loops.append(made)  # `append` is atomic; `LoopThread.begin` says why there is no lock
        if loops[0] is not made:  # another thread or a signal handler was faster
            made.loop.close()
    loops[0].begin()
    return loops[0]


def _end() -> None:
    Process.ended = True
    for loop in Process.loops[:1]:
        loop.end()


def _forget_parent() -> None:
    for loop in Process.loops[:1]:
        loop.inherited = True
        keep_for_ever((loop, list(loop.open)))
    Process.loops = []


atexit.register(_end)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_parent)
