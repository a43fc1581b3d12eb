"""``gradient-async map``: send the requests of one file, and write the results to another; a later run continues."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from ..client import AsyncGradient
from ..decoding import known_params
from ..errors import ConfigurationError, GradientError, JournalError
from ..fanout import Journal, MapResult, MapResults
from ..fanout.journal import JournalRun
from ..fanout.result_file import InputLine, Row
from ..types import NOT_GIVEN
from .command import (
    CLIENT_VARIABLES,
    MODEL_VARIABLES,
    SCREEN_VARIABLES,
    Command,
    add_client_arguments,
    default_model,
    open_client,
    whole_number,
)
from .display import complain, handling, note, open_progress
from .problems import explain
from .schemas import answer_of

_FAILED = 1
_UNUSABLE = 2
# The exit statuses that shells report for a program that was ended by Ctrl-C or by SIGTERM.
_INTERRUPTED = 130
_TERMINATED = 143

_BOM = b"\xef\xbb\xbf"  # a byte order mark, which editors on Windows write at the start of a file
_PATH = "/chat/completions"
# Arguments of the client's methods that are not documented parameters of a request.
_OPTIONS = frozenset({"stream"})
_BAD = "not a request"
_MAX_SHOWN = 80  # maximum characters of a value in a message
_PER_MINUTE = {"s": 60, "min": 1, "h": 1 / 60}
_MAX_SECONDS = 100  # shorter times are shown in seconds


# Reading requests


class RequestLine(InputLine, frozen=True):
    """A line of the input that is not empty: a request, or a line with a problem. It is its own key for `map`."""

    params: dict[str, Any]  # arguments for `map`; empty if there is a problem
    problem: str = ""  # why the line is not a request, and what to do


def read_requests(lines: Iterable[bytes], model: str) -> Iterator[RequestLine]:
    """Yield the lines that are not empty; ``model`` is the model of requests that name none."""
    first_uses: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
        if not text:
            continue
        custom_id, body, problem = _parse(text)
        if custom_id is not None and not problem:
            first = first_uses.setdefault(custom_id, number)
            if first != number:
                problem = f"custom_id {_shown(custom_id)} is already used on line {first}; use another"
                custom_id = None
        digest = hashlib.blake2b(text, digest_size=8).hexdigest()
        params = {} if problem else _arguments(body, model)
        yield RequestLine(number, custom_id, digest, params, problem)


def _parse(text: bytes) -> tuple[str | None, dict[str, Any], str]:
    """Return a line's custom_id, the body of its request, and its problem, or "" if there is no problem."""
    try:
        row = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, {}, f"not valid JSON ({error}); put one JSON object on each line"
    if not isinstance(row, dict):
        return None, {}, "not a JSON object; put one JSON object on each line"
    fields = cast("dict[str, Any]", row)
    custom_id = fields.pop("custom_id", None)
    if custom_id is not None and not isinstance(custom_id, str):
        return None, {}, f"custom_id {_shown(custom_id)} is not a string"
    if "body" not in fields:
        if "messages" in fields:
            return custom_id, fields, ""
        return custom_id, {}, 'neither "body" nor "messages"; a request has one of them'
    method, url, body = fields.get("method", "POST"), fields.get("url", _PATH), fields["body"]
    if str(method).upper() != "POST":
        return custom_id, {}, f"method {_shown(method)} is not supported; only POST is"
    if not str(url).endswith(_PATH):
        return custom_id, {}, f"url {_shown(url)} is not supported; only {_PATH} is"
    if not isinstance(body, dict):
        return custom_id, {}, "body is not a JSON object"
    return custom_id, cast("dict[str, Any]", body), ""


def _shown(value: Any) -> str:
    """Return a value from the input as text for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _arguments(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Turn the body of a request into arguments for `map`; fields that `map` does not know go into ``extra_body``."""
    known = known_params() | _OPTIONS
    arguments = {name: value for name, value in body.items() if name in known}
    extra = {name: value for name, value in body.items() if name not in known}
    arguments.setdefault("model", model)
    if extra:
        arguments["extra_body"] = extra
    return arguments


# Counting


class Counts:
    """The counts of a run so far."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total  # lines of the input that are not empty
        self.done = self.failed = 0  # requests of this run that ended with a completion, and with an error
        self.invalid = 0  # lines that are not requests
        self.skipped = 0  # lines whose results were in the file of results before this run
        self.wrong = 0  # lines that have an error or are not requests, in this run or an earlier run
        self.tokens = 0  # tokens of prompts and completions
        self._clock = clock
        self._start = clock()

    @property
    def seconds(self) -> float:
        """Time since the run began; never 0, so that rates can be computed."""
        return max(1e-9, self._clock() - self._start)

    @property
    def over(self) -> int:
        """Number of lines of the input that need no further work."""
        return self.done + self.failed + self.invalid + self.skipped

    def __str__(self) -> str:
        """Return the rates and, after the first request, an estimate of the time left."""
        ended = self.done + self.failed
        text = (
            f"{ended / self.seconds:.1f} requests/s, {self.tokens / self.seconds:.0f} tokens/s, "
            f"{self.failed} failed"
        )
        if not ended:
            return text
        # The estimate counts only requests of this run, because skipped lines took no time.
        left = round(max(0, self.total - self.over) * self.seconds / ended)
        return f"{text}, {f'{left} s' if left < _MAX_SECONDS else timedelta(seconds=left)} left"

    def summary(self) -> str:
        """Return the last line of a run."""
        return (
            f"{self.done} done, {self.failed} failed, {self.invalid} invalid, "
            f"{self.skipped} done earlier, {self.tokens} tokens, {self.seconds:.1f} s"
        )


# Running


async def run_map(arguments: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 if every line has a completion; 1 if some lines have errors; 2 if the run could not begin or
        could not write; 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with _open_input(arguments.input) as source:
            output = _output_path(arguments)
            async with open_client(arguments) as client:
                if client.model_access_key is None:
                    complain("no key: set GRADIENT_MODEL_ACCESS_KEY, or use --local to try the command")
                    return _UNUSABLE
                with closing(Journal(output, retry_errors=arguments.retry_errors)) as journal:
                    return await MapCommand(arguments, source, journal).run(client)
    except (ConfigurationError, JournalError) as error:
        complain(explain(error))
    except OSError as error:
        complain(f"{error.filename}: {error.strerror or error}")
    return _UNUSABLE


def parse_pace(text: str) -> float:
    """Parse a rate; return the number of requests in a minute."""
    number, _, unit = text.partition("/")
    try:
        rate = float(number) * _PER_MINUTE[unit or "min"]
    except (KeyError, ValueError):
        rate = 0
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate such as 600/min, 10/s or 36000/h")
    return rate


def _output_path(arguments: argparse.Namespace) -> Path:
    if arguments.output == "-":
        raise JournalError(
            "results can't go to standard output, because a later run reads them to continue; name a file"
        )
    output = Path(arguments.output)
    if arguments.input != "-" and output.exists() and output.samefile(arguments.input):
        raise JournalError(f"{output} is the file of requests; name another file for the results")
    return output


@contextmanager
def _open_input(name: str) -> Generator[BinaryIO, None, None]:
    with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
        if name != "-" and file.seekable():
            yield file
            return
        # A pipe is copied first: reading a pipe may block the event loop, and with the loop all replies.
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield copy


class MapCommand:
    """One run: sends the requests that have no result yet, and shows the progress."""

    def __init__(self, arguments: argparse.Namespace, source: BinaryIO, journal: Journal) -> None:
        self._arguments = arguments
        self._source = source
        self._journal = journal
        self._bad_lines = JournalRun(journal, owned=False)
        self._counts = Counts(sum(not line.isspace() for line in source))
        source.seek(0)
        if arguments.retry_errors:
            note(f"requests to retry: {journal.errors}")
        self._told: set[tuple[str, Any]] = set()  # kinds of failures that have been reported
        self._signal_status = 0  # the exit status because of a signal; 0 if there was none

    async def run(self, client: AsyncGradient) -> int:
        """Send the requests until all have ended or a signal stops the run; return the exit status."""
        arguments, counts = self._arguments, self._counts
        with open_progress(sys.stderr) as self._display:
            self._show_progress()
            results = client.chat.completions.map(
                self._requests(),
                max_concurrency=arguments.max_concurrency,
                requests_per_minute=arguments.requests_per_minute,
                tokens_per_minute=arguments.tokens_per_minute,
                adaptive=arguments.adaptive,
                stream=arguments.stream,
                journal=self._journal,
                response_format=NOT_GIVEN if arguments.schema is None else arguments.schema,
            )
            try:
                with self._handle_signals(results):
                    async with results:
                        async for result in results:
                            self._take(result)
            except asyncio.CancelledError:
                # The handler of a signal cancels this task. Any other cancellation is passed on.
                if not self._signal_status:
                    raise
            self._show_progress()
        if not self._signal_status and (others := self._journal.tidy()):
            note(
                f"{arguments.output} also has {others} results for lines that are not in {arguments.input}; "
                "they were kept"
            )
        if earlier := counts.wrong - counts.failed - counts.invalid:
            note(f"errors of earlier runs: {earlier}; {arguments.output} has their messages")
        note(counts.summary())
        return self._signal_status or (_FAILED if counts.wrong else 0)

    def _requests(self) -> Iterator[tuple[RequestLine, dict[str, Any]]]:
        """Yield the lines that are requests; report the other lines."""
        # `map` takes the next line only when it can send another request, so the whole input is never in memory.
        for line in read_requests(self._source, self._arguments.model):
            if line.problem:
                self._refuse(line)
            else:
                yield line, line.params

    def _refuse(self, line: RequestLine) -> None:
        """Report a line that is not a request, and write the reason to the journal, unless an earlier run did so."""
        row = Row.of(0, line).asking({_BAD: line.digest})[0]._replace(bad=True)
        self._counts.wrong += 1
        if self._bad_lines.take(row) is not None:
            self._counts.skipped += 1
            return
        self._counts.invalid += 1
        self._say_of(line, line.problem)
        self._journal.write(row, error=line.problem)

    def _say_of(self, line: RequestLine, text: str) -> None:
        self._display.say(f"{self._arguments.input}:{line.number}: {text}")

    def _take(self, result: MapResult) -> None:
        """Count a result."""
        counts = self._counts
        counts.wrong += result.error is not None
        if result.resumed:
            counts.skipped += 1
        elif result.error is not None:
            counts.failed += 1
            self._say_failure(result.key, result.error)
        else:
            usage = result.completion.usage
            counts.done += 1
            counts.tokens += 0 if usage is None else usage.total_tokens
        self._show_progress()

    def _say_failure(self, line: RequestLine, error: GradientError) -> None:
        """Report the first failure of each kind only, because thousands may be alike. The file has all failures."""
        kind = type(error).__name__, getattr(error, "status_code", None)
        if kind not in self._told:
            self._told.add(kind)
            self._say_of(line, f"{kind[0]}: {explain(error)}")

    def _show_progress(self) -> None:
        self._display.progress(self._counts.over, self._counts.total, str(self._counts))

    @contextmanager
    def _handle_signals(self, results: MapResults) -> Generator[None, None, None]:
        """At the first Ctrl-C, send no more requests and wait for those in flight. At a second Ctrl-C or SIGTERM, stop at once."""
        schedule = asyncio.get_running_loop().call_soon_threadsafe  # also wakes the loop
        task = cast("asyncio.Task[None]", asyncio.current_task())
        over = False

        def stop(status: int) -> None:
            self._signal_status = status
            if not over:
                task.cancel()

        def interrupt() -> None:
            if self._signal_status:
                stop(_INTERRUPTED)
                return
            # The requests in flight are already paid for, so the run waits for their results.
            self._signal_status = _INTERRUPTED
            results.drain()
            self._display.say("finishing the requests in flight; press Ctrl-C again to stop at once")

        with (
            handling(signal.SIGINT, lambda: schedule(interrupt)),
            handling(signal.SIGTERM, lambda: schedule(stop, _TERMINATED)),
        ):
            try:
                yield
            finally:
                over = True


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    add = parser.add_argument
    add("input", metavar="IN.jsonl", help="file of requests; - reads standard input")
    add(
        "output", metavar="OUT.jsonl", help="file of results; requests with a result in it are not sent again"
    )
    add(
        "-m",
        "--model",
        default=default_model(),
        metavar="M",
        help="model for requests that name none (default: %(default)s)",
    )
    add(
        "--max-concurrency",
        type=whole_number,
        default=64,
        metavar="N",
        help="maximum number of requests in flight (default: %(default)s)",
    )
    add(
        "--pace",
        "--requests-per-minute",
        type=parse_pace,
        dest="requests_per_minute",
        metavar="N/UNIT",
        help="maximum number of requests, such as 600/min, 10/s or 36000/h; a number alone is for a minute",
    )
    add("--tokens-per-minute", type=parse_pace, metavar="T", help="maximum number of tokens in a minute")
    add("--adaptive", action="store_true", help="adapt the number of requests in flight to the server")
    add(
        "--schema",
        type=answer_of,
        metavar="FILE|TYPE",
        help="form of the answers: a file with a JSON schema, or a type such as module:Type; an answer that is no value "
        "of the type is an error",
    )
    add("--stream", action="store_true", help="stream replies, so that stalled ones are noticed early")
    add(
        "--retry-errors",
        action="store_true",
        help="send all requests whose results are errors again, also those that the server refused with 400, 404, "
        "413 or 422",
    )


COMMAND = Command(
    "map",
    help="send the requests of a file and write the results to another",
    description="Send the requests of a file, one on each line: batch lines with custom_id and body, or the "
    "parameters of a request alone. Each result is written as it arrives, one on each line. After an "
    "interruption, run the same command again: it sends the requests that have no result yet, and those that "
    "failed or have changed.",
    add_arguments=_add_arguments,
    run=run_map,
    variables=CLIENT_VARIABLES | MODEL_VARIABLES | SCREEN_VARIABLES,
)
