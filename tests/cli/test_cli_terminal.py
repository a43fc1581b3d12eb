"""``chat`` as its users see it: on terminals of several widths, in pipes, with output closed, and interrupted at random."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gradient_async.testing import Connection, Reply, ThreadedServer, chunk, reply_sse

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from terminal import PATIENCE, Terminal

WIDTHS = [40, 80, 200]
PROGRAM = f"{shlex.quote(sys.executable)} -m gradient_async"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of bash, in which ``chat`` is the program."""
    command = command.replace("chat ", f"{PROGRAM} chat ")
    return subprocess.run(
        ["bash", "-c", command],  # noqa: S607  # whichever bash there is
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


# Terminals


@pytest.mark.parametrize("columns", WIDTHS)
def test_an_answer(columns: int) -> None:
    """It is wrapped between words, and the last line says what it cost."""
    with Terminal("chat", "--local", "Say: " + "words **with** format " * 20, columns=columns) as terminal:
        assert 0 == terminal.end()
        lines = terminal.shown.split("\n")
    text = " ".join(lines)
    assert text.startswith("words with format words")
    assert 20 == text.count("with format")
    assert "tokens, " in text
    assert "first token after" in text
    assert all(len(line) <= columns for line in lines)


def push(server: ThreadedServer, *chunks: Any) -> threading.Event:
    """Let the server reply with all chunks but the last one, which it sends once the event is set."""
    seen = threading.Event()

    async def wait(_connection: Connection) -> None:
        while not seen.is_set():  # noqa: ASYNC110  # the event belongs to another thread
            await asyncio.sleep(0.01)

    head, first, *rest = reply_sse(*chunks, per_write=len(chunks) - 1).steps
    server.push(Reply((head, first, wait, *rest)))
    return seen


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_long_answer_is_followed(gradient_server: ThreadedServer, columns: int) -> None:
    """A block of code that is longer than the screen shows its end, and is there as a whole in the end."""
    lines = [chunk(f"line {number}\n") for number in range(60)]
    seen = push(gradient_server, chunk("```\n"), *lines, chunk("```", finish_reason="stop"))
    with Terminal("chat", "--base-url", f"{gradient_server.url}/v1", "Code", columns=columns) as terminal:
        terminal.wait_for("line 59")
        assert "lines above" in terminal.screen
        assert "line 30" not in terminal.screen
        seen.set()
        assert 0 == terminal.end()
        assert [f"line {number}" for number in range(60)] == [
            line.strip() for line in terminal.shown.split("\n") if line.strip().startswith("line ")
        ]


@pytest.mark.parametrize("columns", WIDTHS)
def test_several_answers(gradient_server: ThreadedServer, columns: int) -> None:
    """Each shows its end while it comes, and everything in the end."""
    chunks = [chunk(f"word{number}\n", index=index) for number in range(60) for index in range(3)]
    ends = [chunk(finish_reason="stop", index=index) for index in range(3)]
    seen = push(gradient_server, *chunks, *ends)
    with Terminal(
        "chat", "--base-url", f"{gradient_server.url}/v1", "-n", "3", "Words", columns=columns
    ) as terminal:
        terminal.wait_for("word59", 3)
        assert 3 == terminal.screen.count("lines above")
        assert 3 == terminal.screen.count("choice ")
        seen.set()
        assert 0 == terminal.end()
        shown = terminal.shown
    assert "lines above" not in shown
    for number in range(60):
        assert 3 == shown.count(f" word{number} ")


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_conversation(columns: int, at_home: Path) -> None:
    with Terminal("chat", "--local", "-s", "Be brief", columns=columns) as terminal:
        terminal.wait_for_prompt()
        terminal.write("Say: one\r")
        terminal.wait_for("first token")
        terminal.wait_for_prompt()
        terminal.write("/se\t\x15/nothing\r")  # Tab completes; Ctrl-U takes the line away
        terminal.wait_for("no such")
        terminal.wait_for_prompt()
        terminal.write("Say: two \\\r")
        terminal.wait_for("\n.")
        terminal.write("lines\r")
        terminal.wait_for("\ntwo lines")
        terminal.wait_for_prompt()
        terminal.write("\x1b[A\x1b[A\x1b[A\x1b[A\r")  # an earlier line
        terminal.wait_for("\none", 2)
        terminal.wait_for_prompt()
        terminal.write("not sent")
        terminal.wait_for("> not sent")
        terminal.write("\x03")
        terminal.wait_for_prompt(again="\x03")
        terminal.write("\x04")
        assert 0 == terminal.end()
        assert "Traceback" not in terminal.shown
    held = json.loads((at_home / "conversation.json").read_text())
    assert "Be brief" == held["system"]
    assert ["Say: one", "one", "Say: two \nlines", "two \nlines", "Say: one", "one"] == [
        message["content"] for message in held["messages"]
    ]
    with Terminal("chat", "--local", "-c", columns=columns) as terminal:
        terminal.wait_for_prompt()
        assert "6 messages so far" in " ".join(terminal.shown.split())
        terminal.write("\x1b[A\r")
        terminal.wait_for("\none")
        terminal.wait_for_prompt()
        terminal.write("/undo\r")
        terminal.wait_for_prompt()
        terminal.write("/exit\r")
        assert 0 == terminal.end()
    assert held == json.loads((at_home / "conversation.json").read_text())


def test_pasted_lines_are_one_message(at_home: Path) -> None:
    with Terminal("chat", "--local") as terminal:
        terminal.wait_for_prompt()
        terminal.write("\x1b[200~Say: one\ntwo\x1b[201~\r")
        terminal.wait_for("first token")
        terminal.wait_for_prompt()
        terminal.write("\x04")
        assert 0 == terminal.end()
    held = json.loads((at_home / "conversation.json").read_text())
    assert "Say: one\ntwo" == held["messages"][0]["content"]


def test_ctrl_c_stops_an_answer_and_not_the_conversation(
    gradient_server: ThreadedServer, at_home: Path
) -> None:
    push(gradient_server, chunk("Once upon "), chunk("a time", finish_reason="stop"))
    with Terminal("chat", "--base-url", f"{gradient_server.url}/v1") as terminal:
        terminal.wait_for_prompt()
        terminal.write("Tell me a story\r")
        terminal.wait_for("Once upon")
        terminal.write("\x03")
        terminal.wait_for_prompt()
        terminal.write("Say: and then\r")
        terminal.wait_for("\nand then")
        terminal.wait_for_prompt()
        terminal.write("/exit\r")
        assert 0 == terminal.end()
    held = json.loads((at_home / "conversation.json").read_text())["messages"]
    assert ["Tell me a story", "Once upon ", "Say: and then", "and then"] == [
        message["content"] for message in held
    ]


def test_without_colours() -> None:
    """Probabilities are numbers then, and nothing is coloured."""
    arguments = ("chat", "--local", "--logprobs", "Say: hello")
    with Terminal(*arguments) as terminal:
        assert 0 == terminal.end()
        assert b"\x1b[3" in terminal.raw
    with Terminal(*arguments, environment={"NO_COLOR": "1"}) as terminal:
        assert 0 == terminal.end()
        assert b"\x1b[3" not in terminal.raw
        assert "%]" in terminal.shown
    with Terminal(*arguments, environment={"TERM": "dumb"}) as terminal:
        assert 0 == terminal.end()
        assert b"\x1b" not in terminal.raw
        assert "%]" in terminal.shown


def test_text_of_servers_moves_nothing(gradient_server: ThreadedServer) -> None:
    """Not as text, and not as the number of a character in Markdown."""
    evil = "\x1b[2J\x9b2J\u202e &#x1b;[2J &#x9b;2J &#x202e; \x07"
    for _ in range(3):
        gradient_server.push(
            reply_sse(
                chunk(evil, reasoning_content=evil, refusal=evil, model=evil), chunk(finish_reason="stop")
            )
        )
    for arguments in (
        [],
        ["-n", "2"],
        ["--schema", __file__.replace("test_cli_terminal.py", "none.json")][:0],
    ):
        with Terminal("chat", "--base-url", f"{gradient_server.url}/v1", *arguments, "Hi") as terminal:
            terminal.end()
            assert "\\x1b[2J" in terminal.shown
            assert "\u202e" not in terminal.raw.decode()
            assert b"\x1b[2J" not in terminal.raw
            assert b"\x07" not in terminal.raw


@pytest.mark.parametrize("columns", WIDTHS)
def test_help(columns: int) -> None:
    """It names the variables, and fits."""
    with Terminal("chat", "--help", columns=columns) as terminal:
        assert 0 == terminal.end()
        for name in (
            "GRADIENT_MODEL_ACCESS_KEY",
            "GRADIENT_BASE_URL",
            "GRADIENT_MODEL",
            "XDG_STATE_HOME",
            "NO_COLOR",
        ):
            assert name in terminal.shown


# Pipes


def test_pipes() -> None:
    """What is piped is joined with the prompt; what is printed into a pipe is the answer alone."""
    done = shell("printf 'Say: a\nb\n' | chat --local 'and **c**' | cat")
    assert ("a\nb\n\nand **c**\n", "", 0) == (done.stdout, done.stderr, done.returncode)
    with Terminal("chat", "--local", "and this", piped="Say: that\n") as terminal:
        assert 0 == terminal.end()
        assert "that\n\nand this\n" in terminal.shown


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("chat --local Hi >&-", 1, "gradient-async: standard output can't be written: Bad file descriptor\n"),
        (
            "chat --local Hi >/dev/full",
            1,
            "gradient-async: standard output can't be written: No space left on device\n",
        ),
        (
            "chat --local --json Hi >/dev/full",
            1,
            "gradient-async: standard output can't be written: No space left on device\n",
        ),
        ("chat --local Hi 2>&- <&- | grep -q simulated", 0, ""),
        ("chat --local '' 2>&-", 2, ""),
        ("chat --local <&-", 2, "gradient-async: no prompt: write one behind the options, or pipe it\n"),
        ("set -o pipefail; chat --local 'Write 2000 words' | head -c 10 >/dev/null", 141, ""),
        (
            "printf '\\xff' | chat --local",
            2,
            "gradient-async: standard input is not text; --image - sends an image\n",
        ),
    ],
)
def test_streams_that_are_closed_or_broken(command: str, status: int, says: str) -> None:
    """One line says so, and nothing of it is Python."""
    done = shell(command, PYTHONUTF8="1")
    assert (says, status) == (done.stderr, done.returncode)


# Interruptions


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(("n", "typed"), [(1, "ab\r\r"), (2, "")])
def test_what_is_typed_leaves_the_screen_alone(
    gradient_server: ThreadedServer, columns: int, n: int, typed: str
) -> None:
    """Also Ctrl-C: everything is shown once, in lines as long as the screen is wide, and typing is seen again."""
    chance = random.Random(f"{columns} {n} {typed}")
    long = "x" * (columns - 6)
    words = [
        chunk(f"{index}-{number:03} {long}\n", index=index) for number in range(999) for index in range(n)
    ]
    gradient_server.push(reply_sse(*words, gap=0.01, done=False, end_delay=PATIENCE))
    arguments = ("--base-url", f"{gradient_server.url}/v1", "-n", str(n), "Go")
    with Terminal("chat", *arguments, columns=columns) as terminal:
        terminal.wait_until(lambda: bool(re.search(r"0-\d{3}", terminal.screen)))
        for key in [*typed, "\x03"]:
            terminal.read_for(0.3 * chance.random())
            terminal.write(key)
        assert 130 == terminal.end()
        assert terminal.echoes
        assert (n if n > 1 else 0) == terminal.shown.count("╭")
        assert "lines above" not in terminal.shown
        found = re.findall(r"\d-\d{3}", terminal.shown)
    assert sorted({*found}) == sorted(found)
    assert {f"{index}-001" for index in range(n)} <= {*found}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("arguments", [["Go"], ["-n", "3", "Go"], ["--json", "Go"], []])
def test_ctrl_c_at_any_moment(gradient_server: ThreadedServer, arguments: list[str], seed: int) -> None:
    """No traceback, the cursor is there, and the server sees the connection close."""
    chance = random.Random(f"{arguments} {seed}")
    words = [chunk(f"word{number}\n", index=index) for number in range(3000) for index in range(3)]
    gradient_server.push(reply_sse(*words, gap=0.01))
    with Terminal("chat", "--base-url", f"{gradient_server.url}/v1", *arguments) as terminal:
        if not arguments:
            terminal.wait_for_prompt()
            terminal.write("Go\r")
        # Until its own code runs, Python answers Ctrl-C with a traceback.
        terminal.wait_until(lambda: bool(gradient_server.requests))
        terminal.read_for(chance.random())
        terminal.write("\x03")
        terminal.read_for(chance.choice([0, 0, 0.01, 0.1]))
        terminal.write("\x03")
        if not arguments:
            terminal.wait_for_prompt(again="\x03")
            terminal.write("/exit\r/exit\r")  # the second Ctrl-C may take a line away
        # A second Ctrl-C raises KeyboardInterrupt anywhere, also inside aiohttp, which may then wait for a connection whose loss
        # it was never told. A third Ctrl-C ends that wait.
        assert (130 if arguments else 0) == terminal.end(interrupt=bool(arguments))
        assert "Traceback" not in terminal.shown
        assert terminal.raw.rfind(b"\x1b[?25h") >= terminal.raw.rfind(b"\x1b[?25l")
    terminal.wait_until(lambda: gradient_server.open_connections == 0)
