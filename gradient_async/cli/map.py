"""``gradient-async map``: a file of requests to a file of results, to be stopped and started again."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO, cast

from ..client import AsyncGradient
from ..errors import ConfigurationError
from ..fanout import MapResult, MapResults
from .batch import BadLine, Line, read_lines, record
from .journal import Journal, JournalError
from .progress import Counts, Progress, make_progress

__all__ = ["run_map"]

_FAILED = 1
_UNUSABLE = 2
# What shells report of a program that Ctrl-C, or a signal to terminate, ended.
_INTERRUPTED = 130
_TERMINATED = 143
_TOLD = 10  # lines that changed to tell of; the others are counted


async def run_map(arguments: argparse.Namespace) -> int:
    """Make the requests of a file, but for those whose results are there.

    Args:
        arguments: Those of the command line.

    Returns:
        0 if every line has a completion, 1 if some have errors or have changed, 2 if it could not begin or could not
        write; 130 after Ctrl-C, and 143 after SIGTERM.
    """
    try:
        async with AsyncExitStack() as stack:
            return await _run(arguments, stack)
    except (ConfigurationError, JournalError) as error:
        print(f"gradient-async: {error}", file=sys.stderr)
    except OSError as error:
        print(f"gradient-async: {error.filename}: {error.strerror or error}", file=sys.stderr)
    return _UNUSABLE


async def _run(arguments: argparse.Namespace, stack: AsyncExitStack) -> int:
    source = stack.enter_context(_open_input(arguments.input))
    if arguments.output == "-":
        raise JournalError(
            "results go to a file, so that a second run can go on where this one stops: name one"
        )
    output = Path(arguments.output)
    if _same(arguments.input, output):
        raise JournalError(f"{output} would be read and written at once; give results a file of their own")
    client = await stack.enter_async_context(await _client(arguments, stack))
    journal = Journal(output)
    stack.callback(journal.close)
    run = _Run(arguments, source, journal)
    if arguments.retry_errors:
        forgotten = journal.forget_errors()
        run.progress.say(f"{forgotten} errors are tried again")
    return await run.all(client)


def _same(name: str, output: Path) -> bool:
    return name != "-" and output.exists() and output.samefile(name)


@contextlib.contextmanager
def _open_input(name: str) -> Generator[BinaryIO, None, None]:
    with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
        if name != "-" and file.seekable():
            yield file
            return
        # Read to its end first: waiting for a line must not keep replies waiting.
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield copy


async def _client(arguments: argparse.Namespace, stack: AsyncExitStack) -> AsyncGradient:
    if arguments.local:
        from ..testing import serve  # noqa: PLC0415  # only --local needs it

        server = await stack.enter_async_context(serve())
        return AsyncGradient(inference_endpoint=server.url, model_access_key="local")
    client = AsyncGradient(base_url=arguments.base_url)
    if client.model_access_key is None:
        raise ConfigurationError("no key: set GRADIENT_MODEL_ACCESS_KEY, or try it out with --local")
    return client


class _Run:
    """One run.

    Args:
        arguments: Those of the command line.
        source: Requests.
        journal: Results.
    """

    def __init__(self, arguments: argparse.Namespace, source: BinaryIO, journal: Journal) -> None:
        self._arguments = arguments
        self._source = source
        self._journal = journal
        self._left_over = set(journal.done)  # results of lines that were not seen yet
        self._counts = Counts()
        self.progress: Progress = make_progress(self._counts, _count_lines(source))
        self._interrupted = 0  # the status to exit with, once somebody has asked for that

    async def all(self, client: AsyncGradient) -> int:
        """Make the requests; return the exit status."""
        arguments, counts = self._arguments, self._counts
        results = client.chat.completions.map(
            ((line, line.params) for line in self._lines()),
            max_concurrency=arguments.max_concurrency,
            requests_per_minute=arguments.requests_per_minute,
            tokens_per_minute=arguments.tokens_per_minute,
            adaptive=arguments.adaptive,
            stream=arguments.stream,
        )
        interrupts = [] if sys.platform == "win32" else self._catch_interrupts(results)
        try:
            with self.progress:
                async with results:
                    async for result in results:
                        self._take(result)
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
        finally:
            for name in interrupts:
                asyncio.get_running_loop().remove_signal_handler(name)
        if self._left_over and not self._interrupted:
            print(
                f"{self._arguments.output} has {len(self._left_over)} results of lines that "
                f"{self._arguments.input} does not have; they were kept",
                file=sys.stderr,
            )
        print(counts.summary(), file=sys.stderr)
        wrong = counts.failed or counts.bad or counts.changed or self._journal.errors
        return self._interrupted or (_FAILED if wrong else 0)

    def _lines(self) -> Iterator[Line]:
        """Give the requests to make; tell of lines that are none."""
        for line in read_lines(self._source, self._arguments.model):
            self._left_over.discard(line.key)
            before = self._journal.done.get(line.key)
            if before is not None:
                self._counts.skipped += 1
                if before not in {"", line.digest}:
                    self._note_changed(line)
            elif isinstance(line, BadLine):
                self._counts.bad += 1
                self.progress.say(f"{self._arguments.input}:{line.number}: {line.problem}")
                self._journal.write(record(line))
            else:
                yield line

    def _note_changed(self, line: Line | BadLine) -> None:
        """Tell of a line whose result is there, but was written when the line was another."""
        self._counts.changed += 1
        if self._counts.changed <= _TOLD:
            self.progress.say(
                f"{self._arguments.input}:{line.number}: not asked again, though it was another line when its "
                "result was written; give it a new custom_id, or write to another file"
            )

    def _take(self, result: MapResult) -> None:
        line: Line = result.key
        completion = result.completion
        self._journal.write(record(line, completion=completion, error=result.error))
        if completion is None:
            self._counts.failed += 1
        else:
            self._counts.done += 1
            usage = completion.usage
            self._counts.tokens += 0 if usage is None else usage.total_tokens
        self.progress.update()

    # Ctrl-C

    def _catch_interrupts(self, results: MapResults) -> list[int]:
        """Let the first Ctrl-C finish what is under way, and the second end it; return the signals caught."""
        loop = asyncio.get_running_loop()
        task = cast("asyncio.Task[int]", asyncio.current_task())

        def leave(status: int) -> None:
            self._interrupted = status
            task.cancel()

        def interrupt() -> None:
            if self._interrupted:
                leave(_INTERRUPTED)
                return
            self._interrupted = _INTERRUPTED
            results.drain()
            self.progress.say("finishing what is under way; Ctrl-C again leaves at once")

        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, leave, _TERMINATED)
        return [signal.SIGINT, signal.SIGTERM]


def _count_lines(source: BinaryIO) -> int:
    """Count the lines of a file that are not empty, and go back to its beginning."""
    count = sum(not line.isspace() for line in source)
    source.seek(0)
    return count
