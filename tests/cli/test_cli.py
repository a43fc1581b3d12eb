"""The command line: what it prints, and how it exits."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradient_async import AsyncGradient, ChatCompletionMessage, Choice, ChunkChoice, ToolCall
from gradient_async.assembly import CompletionAssembler
from gradient_async.cli import main
from gradient_async.cli.demo import _await_one, _stream_tools
from gradient_async.cli.render import PlainView, make_view
from gradient_async.cli.rich_view import RichView, colour_of
from gradient_async.cli.serve import run_server
from gradient_async.cli.text import percent, printable, tool_line
from gradient_async.decoding import ChunkDecoder
from gradient_async.testing import (
    Server,
    ThreadedServer,
    chunk,
    completion,
    reply_json,
    reply_sse,
    serve,
    sse,
)
from gradient_async.types import ChatCompletion, ChoiceDelta, ChoiceLogprobs, Function, TokenLogprob

ENTRY = TokenLogprob(token="Hi", logprob=-0.1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    """A server that ``chat`` finds without being told."""
    running: Server = serve()
    with running as threaded:
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", threaded.url)
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "k")
        monkeypatch.delenv("GRADIENT_BASE_URL", raising=False)
        yield threaded


def run(*arguments: str, stdin: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "gradient_async", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=60, **more
    )


# Replay


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    bodies = {
        "text": sse(
            chunk("Hello"), chunk(" there", finish_reason="stop"), chunk(usage=usage) | {"choices": []}
        ),
        "crlf": sse(chunk("Hello"), chunk(finish_reason="stop")).replace(b"\n", b"\r\n"),
        "tools": sse(chunk(tool_calls=[call], finish_reason="tool_calls")),
        "two": sse(
            chunk("a", reasoning_content="hm"), chunk(refusal="no", index=1), "{,}" * 0 or chunk(content=None)
        ),
        "odd": sse(chunk("x") | {"created": 1.5}, chunk(finish_reason="stop")),
        "cut": sse(chunk("Hel"), done=False),
        "empty": b"",
        "error": sse(chunk("Hel"), {"error": {"message": "bo\x07om"}}),
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.sse").write_bytes(body)
    return {name: tmp_path / f"{name}.sse" for name in bodies}


def test_replay_prints_one_completion_a_line(
    recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(recordings[name]) for name in ("text", "crlf", "tools")]
    assert main(["replay", "--json", *files]) == 0
    text, crlf, tools = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert text["choices"][0]["message"] == {"role": "assistant", "content": "Hello there"}
    assert text["usage"]["total_tokens"] == 3
    assert crlf["choices"][0]["message"]["content"] == "Hello"
    assert tools["choices"][0]["message"]["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": '{"a": 1}',
    }


def test_replay_says_what_fails_and_goes_on(
    recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(recordings[name]) for name in ("cut", "empty", "error")]
    assert main(["replay", "--json", *files, "/no/such/file", str(recordings["text"])]) == 1
    cut, empty, error, missing, text = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (cut["file"], cut["type"]) == (files[0], "StreamTruncatedError")
    assert cut["partial"]["choices"][0]["message"]["content"] == "Hel"
    assert empty["error"] == "the recording holds no chunk"
    assert (error["type"], error["partial"]["choices"][0]["message"]["content"]) == (
        "StreamServerError",
        "Hel",
    )
    assert (missing["type"], missing["error"]) == ("FileNotFoundError", "No such file or directory")
    assert text["choices"]


def test_replay_for_people(recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(recordings[name]) for name in ("text", "tools", "two", "odd", "cut", "empty")]
    assert main(["replay", *files]) == 1
    printed = capsys.readouterr().out
    for line in (
        "Hello there",
        "[1 + 2 = 3 tokens]",
        '-> f({"a": 1})  [c]',
        "-- choice 1",
        "(thinking) hm",
        "(refused) no",
        "[no finish_reason]",
        f"== {recordings['odd']} (1 odd events)",
    ):
        assert line in printed.splitlines()
    assert f"== {recordings['cut']}: StreamTruncatedError: the recording ends with neither" in printed


def test_replay_reads_standard_input(
    recordings: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Input:
        buffer = io.BytesIO(recordings["text"].read_bytes())

    monkeypatch.setattr(sys, "stdin", Input)
    assert main(["replay", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"]


def corpus() -> Path:
    default = Path(__file__).parents[2] / ".." / "shared" / "corpus"
    return Path(os.environ.get("GRADIENT_ASYNC_CORPUS", default)) / "streams"


@pytest.mark.skipif(not corpus().is_dir(), reason="the recorded streams are not here")
def test_replay_gives_what_the_core_assembles(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(file) for file in corpus().glob("*.sse"))
    main(["replay", "--json", *files])
    lines = capsys.readouterr().out.splitlines()
    assert len(files) == len(lines)
    for file, line in zip(files, lines, strict=True):
        row = json.loads(line)
        decoder, assembler = ChunkDecoder(), CompletionAssembler()
        if "partial" not in row:
            assembler.extend(decoder.feed(Path(file).read_bytes()))
            assembler.extend(decoder.close())
            assert assembler.completion.to_dict() == row
        else:
            assert row["file"] == file
            assert row["type"].startswith("Stream")


# Chat


def test_chat_streams_an_answer(server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "m1", "--system", "Be brief", "--max-tokens", "9", "--temperature", "0.5"]
    assert main(["chat", "Say: hello there", *arguments]) == 0
    assert capsys.readouterr().out == "hello there\n"
    assert server.requests[0].json == {
        "model": "m1",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Say: hello there"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_chat_shows_probabilities(server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--logprobs", "Say: hello"]) == 0
    assert capsys.readouterr().out.startswith("hello[")
    assert server.requests[0].json["top_logprobs"] == 3


def test_chat_shows_several_answers_one_after_the_other(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "-n", "2", "Name a colour"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("-- choice 0\n") < printed.index("-- choice 1\n")


def test_chat_prints_json(server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--json", "--base-url", f"{server.url}/v1", "Say: hello"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"][0]["message"]["content"] == "hello"


def test_chat_needs_no_server_of_yours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--local", "--json", "Say: hello"]) == 0
    assert main(["chat", "--local", "Say: hi"]) == 0
    assert capsys.readouterr().out.endswith("\nhi\n")


def test_chat_reads_standard_input(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say: from a pipe"))
    assert main(["chat", "-"]) == 0
    assert capsys.readouterr().out == "from a pipe\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "error-401"], "AuthenticationError: "),
        (["--model", "error-cut"], "StreamInterruptedError: "),
        (["--model", "error-cut", "-n", "2"], "StreamInterruptedError: "),
        (["--temperature", "9"], "InvalidRequestError: temperature=9.0"),
        (["--base-url", "ftp://x"], "ConfigurationError: base_url"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["chat", "Count to ten", *arguments]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"gradient-async: {says}")
    assert complaint.count("\n") == 1


def test_a_broken_answer_is_kept_where_json_was_asked_for(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "--json", "--model", "error-cut", "Count to ten"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err.splitlines()[1])["choices"][0]["message"]["content"]


# What is shown


def choice(content: str | None = None, **more: Any) -> ChunkChoice:
    logprobs = ChoiceLogprobs(content=more.pop("entries")) if "entries" in more else None
    return ChunkChoice(
        index=more.pop("index", 0), delta=ChoiceDelta(content=content, **more), logprobs=logprobs
    )


def whole() -> ChatCompletion:
    """A completion that calls a tool in each of two choices."""
    done = ChatCompletion()
    call = ToolCall(id="", function=Function(name="f", arguments="{}"))
    done.choices = [
        Choice(index=index, message=ChatCompletionMessage(tool_calls=[call])) for index in range(2)
    ]
    return done


def test_plain_text_of_one_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView(1, logprobs=True) as view:
        view.add(choice(reasoning_content="let me "))
        view.add(choice(reasoning_content="see"))
        view.add(choice("Hi", entries=[ENTRY]))
        view.add(choice(" there\x1b[2J"))
        view.add(choice(refusal="no"))
        view.finish(whole())
    assert capsys.readouterr().out == "(thinking) let me see\nHi[90%] there\\x1b[2Jno-> f({})\n-> f({})\n\n"
    with PlainView(1, logprobs=False):
        pass
    assert capsys.readouterr().out == ""


def test_plain_text_of_several_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView(2, logprobs=False) as view:
        view.add(choice("b", index=1))
        view.add(choice("a"))
        view.finish(whole())
    assert capsys.readouterr().out == "-- choice 0\na\n-> f({})\n-- choice 1\nb\n-> f({})\n"


@pytest.mark.parametrize("n", [1, 3])
def test_a_terminal_shows_choices_side_by_side(n: int) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system="truecolor")
    with RichView(n, console) as view:
        for index in range(n):
            view.add(choice("plain", index=index, reasoning_content="thought"))
            view.add(choice("Hi", index=index, entries=[ENTRY], refusal="no"))
        view.add(choice())
        done = whole()
        done.choices = done.choices[:n]
        view.finish(done)
    printed = shown.getvalue()
    assert "plain" in printed
    assert "f({})" in printed
    assert ("choice 1" in printed) == (n > 1)


def test_colours_tell_how_likely_a_token_was() -> None:
    likelihoods = (-0.01, -0.3, -1.0, -9999.0)
    colours = [colour_of(TokenLogprob(logprob=value)) for value in likelihoods]
    assert colours == ["green", "yellow", "dark_orange", "red"]
    assert [percent(TokenLogprob(logprob=value)) for value in likelihoods] == ["99%", "74%", "37%", "0%"]


def test_a_terminal_without_rich_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert isinstance(make_view(2, logprobs=False), RichView)
    monkeypatch.setitem(sys.modules, "gradient_async.cli.rich_view", None)
    assert isinstance(make_view(2, logprobs=False), PlainView)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert isinstance(make_view(2, logprobs=False), PlainView)


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[2J\r\n\tb\u202ec") == "a\\x1b[2J\\r\n\tb\\u202ec"
    assert tool_line(ToolCall(id="c\x07", function=Function(name="f", arguments="{}"))) == "f({})  [c\\x07]"


# Demo, serve, and the program itself


@pytest.mark.parametrize("terminal", [False, True])
def test_the_demo_shows_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr("gradient_async.cli.demo.on_terminal", lambda: terminal)
    if terminal:
        monkeypatch.setattr("gradient_async.cli.demo._TERMINAL_DELAY", 0.0)
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "create(...)",
        "tokens, 1 request",
        "get_weather",
        '{"city":"Tokyo"}',
        "%]",
        "-- choice 2",
        "first token after",
    ):
        assert part in printed
    assert "2 stopped" in printed
    assert "40 completions" in printed
    assert ("\033[1m" in printed) == terminal


def test_the_demo_survives_a_server_that_tells_little(capsys: pytest.CaptureFixture[str]) -> None:
    async def bare() -> None:
        silent = reply_sse(chunk(finish_reason="stop"))
        async with (
            serve(reply_json(completion(None, usage=None)), silent, silent) as running,
            AsyncGradient(inference_endpoint=running.url, model_access_key="k") as client,
        ):
            await _await_one(client)
            await _stream_tools(client)

    asyncio.run(bare())
    assert "0 tokens" in capsys.readouterr().out


def test_serve_runs_until_it_is_interrupted() -> None:
    command = [
        sys.executable,
        "-m",
        "gradient_async",
        "serve",
        "--port",
        "0",
        "--key",
        "secret",
        "--delay",
        "0",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        asked = run(
            "chat",
            "Say: hello",
            env={**os.environ, "GRADIENT_INFERENCE_ENDPOINT": url, "GRADIENT_MODEL_ACCESS_KEY": "secret"},
        )
        refused = run(
            "chat",
            "Say: hello",
            env={**os.environ, "GRADIENT_INFERENCE_ENDPOINT": url, "GRADIENT_MODEL_ACCESS_KEY": "other"},
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert (asked.returncode, asked.stdout) == (0, "hello\n")
    assert (refused.returncode, "AuthenticationError" in refused.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["--replay", "/no/such/folder"], ["--host", "192.0.2.1"]])
def test_serve_says_why_it_can_not(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *arguments]) == 1
    assert capsys.readouterr().err.startswith("gradient-async: ")


def test_serve_in_process_is_ended_by_cancelling(capsys: pytest.CaptureFixture[str]) -> None:
    async def briefly() -> None:
        options = argparse.Namespace(replay=None, key=[], delay=0.0, host="127.0.0.1", port=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await run_server(options)

    asyncio.run(briefly())
    assert "GRADIENT_MODEL_ACCESS_KEY=any" in capsys.readouterr().out


def test_interruption_and_a_closed_pipe_have_their_own_exits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradient_async.cli._run", interrupted)
    assert main(["demo"]) == 130

    def no_reader(_arguments: Any) -> int:
        raise BrokenPipeError

    class Output(io.StringIO):
        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr("gradient_async.cli._run", no_reader)
    monkeypatch.setattr(sys, "stdout", Output())
    assert main(["demo"]) == 141


def test_a_reader_that_leaves_is_no_trouble() -> None:
    """As ``gradient-async serve | head -1`` does."""
    command = f"{shlex.quote(sys.executable)} -m gradient_async chat --local 'Write 2000 words' | head -c 10"
    began = time.monotonic()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)  # noqa: S607  # whichever bash there is
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) == 10
    assert time.monotonic() - began < 30


def test_the_module_is_the_program() -> None:
    assert importlib.import_module("gradient_async.__main__").main is main


def test_help_and_version() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in ("demo", "chat", "replay", "serve"))
    assert run("--version").stdout.startswith("gradient-async ")
    assert run("chatt").returncode == 2
