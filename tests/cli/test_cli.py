"""The program: its arguments, its help, and how it exits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import io
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest

from gradient_async.cli import main
from gradient_async.cli.command import _report

COMMANDS = ("demo", "chat", "models", "map", "replay", "serve", "completions")
PROGRAM = f"{shlex.quote(sys.executable)} -m gradient_async"
UNWRITABLE = "gradient-async: standard output can't be written: "
FULL = Path("/dev/full")
# Commands that write to standard output, and two that argparse runs.
WRITERS = (
    "demo",
    "chat --local hi",
    "chat --local --json hi",
    "chat --local -n 2 hi",
    "models --local",
    "replay /nowhere",
    "serve --port 0",
    "completions bash",
    "--version",
    "map --help",
)


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "gradient_async", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL, **options
    )


def shell(line: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a line of bash."""
    command = ["bash", "-c", line]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL, **options
    )


def test_an_interruption_has_its_own_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradient_async.cli._run", interrupted)
    assert main(["demo"]) == 130


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (OSError(errno.ENOSPC, "No room"), 1, "gradient-async: standard output can't be written: No room\n"),
    ],
)
def test_standard_output_that_can_not_be_written(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    status: int,
    says: str,
) -> None:
    def write(_arguments: Any) -> int:
        raise error

    class Output(io.StringIO):
        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr("gradient_async.cli._run", write)
    monkeypatch.setattr(sys, "stdout", Output())
    assert main(["demo"]) == status
    assert says == capsys.readouterr().err


def test_a_reader_that_leaves_is_no_trouble() -> None:
    """As with ``gradient-async serve | head -1``."""
    began = time.monotonic()
    done = shell(f"{PROGRAM} chat --local 'Write 2000 words' | head -c 10")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) == 10
    assert time.monotonic() - began < 30


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writes, "w") as file:
        yield file


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A file on a full disk."""
    if not FULL.exists():
        pytest.skip("a device of Linux")
    with contextlib.suppress(OSError), FULL.open("w") as file:
        yield file


@pytest.mark.parametrize("arguments", WRITERS)
def test_nobody_reads_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unread: TextIO, arguments: str
) -> None:
    """The exit status is that of programs which the signal for a broken pipe ends, and nothing is said."""
    monkeypatch.setattr(sys, "stdout", unread)
    assert 141 == main(arguments.split())
    assert "" == capsys.readouterr().err


@pytest.mark.parametrize("arguments", WRITERS)
def test_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full: TextIO, arguments: str
) -> None:
    """One line says so, also where the last of the output is written at the end."""
    monkeypatch.setattr(sys, "stdout", full)
    assert 1 == main(arguments.split())
    assert UNWRITABLE + "No space left on device\n" == capsys.readouterr().err


@pytest.mark.parametrize("arguments", WRITERS[:-2])
def test_standard_output_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    """Before the program begins, as by ``>&-``."""
    monkeypatch.setattr(sys, "stdout", None)
    assert 1 == main(arguments.split())
    assert UNWRITABLE + "Bad file descriptor\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "target", "status", "says"),
    [
        ("--version", "| :", 141, ""),
        ("chat --local hi", "| :", 141, ""),
        ("--version", "> /dev/full", 1, UNWRITABLE + "No space left on device\n"),
        ("models --local", "> /dev/full", 1, UNWRITABLE + "No space left on device\n"),
        ("chat --local hi", ">&-", 1, UNWRITABLE + "Bad file descriptor\n"),
    ],
)
def test_standard_output_of_a_process(arguments: str, target: str, status: int, says: str) -> None:
    """The interpreter writes what is left at its exit, and has nothing to add."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = shell(f"set -o pipefail; {PROGRAM} {arguments} {target}", env=environment)
    assert (status, says) == (done.returncode, done.stderr)


@pytest.mark.parametrize("arguments", ["chat --local hi", "serve --port 99999", "replay /nowhere"])
def test_standard_error_is_closed(arguments: str) -> None:
    """What is for standard error goes nowhere, and not to standard output."""
    done = shell(f"{PROGRAM} {arguments} 2>&-")
    assert "Traceback" not in done.stdout
    assert "gradient-async:" not in done.stdout


def test_the_module_is_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while its commands are loaded shows no traceback."""
    program = importlib.import_module("gradient_async.__main__").main
    monkeypatch.setattr("gradient_async.cli.main", lambda: 7)
    assert 7 == program()

    def interrupt(name: str, *_: object) -> None:
        if name == "gradient_async.cli":
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "gradient_async.cli")
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=interrupt), *sys.meta_path])
    assert 130 == program()


def test_help_and_version() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f"\n    {command}" in shown.stdout for command in COMMANDS)
    assert run("--version").stdout.startswith("gradient-async ")
    assert run("chatt").returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, below the line that shows how to call it."""
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    usage, description, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: gradient-async {command} ")
    assert description.endswith(".")


@pytest.mark.parametrize("command", ["chat", "models", "map"])
def test_help_names_the_variables(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out.partition("environment variables:\n")[2]
    for name in (
        "GRADIENT_MODEL_ACCESS_KEY",
        "GRADIENT_BASE_URL",
        "GRADIENT_INFERENCE_ENDPOINT",
        "GRADIENT_LOG",
    ):
        assert f"  {name}\n" in shown


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_to_the_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    usage, *parts = capsys.readouterr().out.split("\n\n")
    # argparse puts no two options on a line that is too narrow for them, and indents a single one by the command's name.
    assert all(len(line) <= columns or "] [" not in line for line in usage.splitlines())
    wide = [line for part in parts for line in part.splitlines() if len(line) > columns]
    assert wide in ([], ["  --pace N/UNIT, --requests-per-minute N/UNIT"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
@pytest.mark.parametrize(
    "arguments",
    [["chat", "--local", "Write 2000 words"], ["serve", "--port", "0"], ["models", "--local"]],
)
def test_an_interruption_at_any_moment(arguments: list[str]) -> None:
    """From the first statement of the program on, no traceback is shown. Before that, Python imports modules."""
    dice = random.Random(7)
    start = "import sys; from gradient_async.cli import main; print('ready', file=sys.stderr, flush=True); sys.exit(main())"
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", start, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert "ready\n" == process.stderr.readline()
            time.sleep(dice.uniform(0, 0.5))
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert process.wait(60) in {0, 130, -signal.SIGINT}
        assert "Traceback" not in said


@pytest.mark.parametrize(("error", "reported"), [(KeyboardInterrupt(), False), (ValueError("no"), True)])
async def test_a_task_that_was_interrupted_is_not_reported(
    caplog: pytest.LogCaptureFixture, error: BaseException, *, reported: bool
) -> None:
    """A second Ctrl-C may end a task that the first has cancelled, whose error nobody asks for."""
    _report(asyncio.get_running_loop(), {"message": "a task failed", "exception": error})
    assert reported is ("a task failed" in caplog.text)
