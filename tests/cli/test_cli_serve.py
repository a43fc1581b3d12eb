"""``gradient-async serve``."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest

from gradient_async import AsyncGradient
from gradient_async.cli import _parser, main
from gradient_async.cli.serve import parse_quota, parse_speed, run_serve
from gradient_async.testing import HOLD, Quota, Server, ThreadedServer, head, reply_writes, serve


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "gradient_async", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


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
        "--quota",
        "1,0.001",
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
        limited = run(
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
    assert (limited.returncode, "RateLimitError" in limited.stderr) == (1, True)
    assert (refused.returncode, "AuthenticationError" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--replay", "/no/such/folder"], "--replay: /no/such/folder is not a folder"),
        # Newer versions of Python give no reason here, but their own words.
        (["--host", "192.0.2.1"], "can't listen on port 0 of 192.0.2.1: "),
        (["--host", "nowhere.invalid"], "can't listen on port 0 of nowhere.invalid: "),
        (["--upstream", "inference.do-ai.run"], "--upstream: give a URL such as https://inference.do-ai.run"),
        (["--record", "recordings"], "--record: the replies of which server? give its URL by --upstream"),
        (["--record", "/dev/null/x", "--upstream", "http://localhost"], "/dev/null/x: Not a directory"),
    ],
)
def test_serve_says_why_it_can_not(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *arguments]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"gradient-async: {says}")
    assert (said.err.count("\n"), said.out) == (1, "")


def test_a_port_that_is_taken(gradient_server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    port = gradient_server.port
    assert main(["serve", "--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"gradient-async: port {port} of 127.0.0.1 is taken by another program; choose another by --port, or any that is "
        "free by --port 0\n"
    )


def test_a_port_that_only_administrators_may_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(*_arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Server, "start", refuse)
    assert main(["serve", "--port", "80"]) == 1
    assert "port 80 of 127.0.0.1 is not for every user; choose a port above 1023" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--port", "99999", "'99999' is not a number from 0 to 65535"),
        ("--port", "-1", "'-1' is not a number from 0 to 65535"),
        ("--port", "http", "'http' is not a number from 0 to 65535"),
        ("--delay", "-1", "'-1' is not a number of seconds"),
        ("--delay", "nan", "'nan' is not a number of seconds"),
        ("--delay", "soon", "'soon' is not a number of seconds"),
    ],
)
def test_bad_numbers(option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", f"{option}={value}"])
    assert (
        f"gradient-async: argument {option}: {says}; gradient-async serve --help" in capsys.readouterr().err
    )


class Running:
    """``serve`` in a process of its own.

    Attributes:
        url: Its URL.
        log: What it has said on standard error; once it has ended.
    """

    def __init__(self, *arguments: str) -> None:
        self.log = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradient_async", "serve", "--port", "0", "--delay", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[1]
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.send_signal(signal.SIGINT)
        _, self.log = self._process.communicate(timeout=60)
        assert 130 == self._process.returncode

    def ask(self, path: str = "/v1/chat/completions", body: bytes | None = None) -> bytes:
        """Send a request; return the body of the reply."""
        try:
            with urllib.request.urlopen(self.url + path, body, timeout=30) as reply:  # noqa: S310  # a server of this test
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            return error.read()


def test_each_request_is_logged_in_one_line() -> None:
    """With neither keys nor what is in a query, and without control characters of a client."""
    question = {"model": "m\x9b\n1", "stream": True, "messages": [{"role": "user", "content": "Say: a"}]}
    with Running() as server:
        assert b"gradient-async" in server.ask("/")
        server.ask(body=json.dumps(question).encode())
        server.ask(body=json.dumps({**question, "model": "error-503", "stream": False}).encode())
        server.ask("/nowhere?key=sk-secret")
        for body in (b"x[", b"[]", b"[" * 100_000):
            server.ask(body=body)
    lines = [
        re.fullmatch(r"\d\d:\d\d:\d\d (.*): [0-9,]+ bytes in \d+\.\d\d s", line)
        for line in server.log.splitlines()
    ]
    assert [
        "200 GET /",
        "200 POST /v1/chat/completions m\\x9b\\n1 (stream)",
        "503 POST /v1/chat/completions error-503",
        "404 GET /nowhere",
        *["400 POST /v1/chat/completions"] * 3,
    ] == [line and line[1] for line in lines]


def test_a_failure_and_a_client_that_leaves_are_in_the_log(gradient_server: ThreadedServer) -> None:
    gradient_server.push(reply_writes([head(200, {"content-length": "9"}), HOLD]))
    with Running("--upstream", gradient_server.url) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
            client.sendall(b"GET /v1/models HTTP/1.1\r\n\r\n")
            assert client.recv(1)
        gradient_server.wait_closed_connections(timeout=30)
        with Running("--upstream", "http://127.0.0.1:1") as other:
            assert b"cannot be reached" in other.ask("/v1/models")
    assert re.search(r" 200 GET /v1/models: .*; the client left\n", server.log)
    assert re.search(r" 500 GET /v1/models: .*: upstream 127.0.0.1:1 cannot be reached: ", other.log)


def test_a_quiet_server() -> None:
    with Running("--quiet") as server:
        server.ask("/nowhere")
    assert "" == server.log


async def test_the_log_has_no_reader_and_requests_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs for weeks keeps no request."""
    made: list[Server] = []

    def make(**options: Any) -> Server:
        made.append(serve(**options))
        return made[0]

    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("gradient_async.cli.serve.serve", make)
    monkeypatch.setattr(sys, "stderr", Closed())
    running = asyncio.create_task(run_serve(_parser().parse_args(["serve", "--port", "0"])))
    try:
        while not made or not made[0].connections:  # the command tells nobody when it serves
            await asyncio.sleep(0.01)
            if made and "not running" not in repr(made[0]):
                async with AsyncGradient(inference_endpoint=made[0].url, model_access_key="k") as client:
                    for _ in range(3):
                        assert (await client.models.list()).data
        assert [] == made[0].requests
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_serve_records_and_replays(tmp_path: Path, gradient_server: ThreadedServer) -> None:
    """Requests to the command's server are passed on and recorded, and replayed without the other server."""
    asked: list[subprocess.CompletedProcess[str]] = []
    recorded = tmp_path / "recorded"
    folder = ["--record", str(recorded)]
    for arguments in (
        ["--upstream", gradient_server.url, *folder],
        ["--replay", str(recorded), "--speed", "max"],
    ):
        with subprocess.Popen(
            [sys.executable, "-m", "gradient_async", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            keys = {"GRADIENT_INFERENCE_ENDPOINT": url, "GRADIENT_MODEL_ACCESS_KEY": "sk-0123456789abcdef"}
            asked.append(run("chat", "Say: hello", env={**os.environ, **keys}))
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
    assert [(0, "hello\n"), (0, "hello\n")] == [(one.returncode, one.stdout) for one in asked]
    assert 1 == len(gradient_server.requests)
    assert ["0001.sse", "manifest.jsonl"] == sorted(path.name for path in recorded.iterdir())


@pytest.mark.parametrize(("text", "speed"), [("1", 1.0), ("2.5", 2.5), ("max", None)])
def test_speed(text: str, speed: float | None) -> None:
    """`--speed` takes a number, or the word for no pauses."""
    assert speed == parse_speed(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "fast", ""])
def test_bad_speed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", f"--speed={text}"])
    assert f"argument --speed: {text!r} is neither a number above 0 nor max" in capsys.readouterr().err


def test_serve_in_process_is_ended_by_cancelling(capsys: pytest.CaptureFixture[str]) -> None:
    async def briefly() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await run_serve(_parser().parse_args(["serve", "--port", "0"]))

    asyncio.run(briefly())
    assert "GRADIENT_MODEL_ACCESS_KEY=any" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("30,8", Quota(requests=30, per_second=8)),
        ("30, 0.5", Quota(requests=30, per_second=0.5)),
        ("30,8,20000,300", Quota(requests=30, per_second=8, tokens=20_000, tokens_per_second=300)),
    ],
)
def test_quota(text: str, quota: Quota) -> None:
    """`--quota` takes two numbers for requests, and two more for tokens."""
    assert quota == parse_quota(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30", "two or four numbers"),
        ("30,8,20000", "two or four numbers"),
        ("30,x", "could not convert string to float: 'x'"),
        ("0,8", "requests=0: a bucket holds at least 1"),
    ],
)
def test_bad_quota(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A quota that is not understood ends the command, and the message says why."""
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--quota", text])
    error = capsys.readouterr().err
    assert "argument --quota" in error
    assert message in error
