"""``gradient-async serve``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradient_async.cli import main
from gradient_async.cli.serve import parse_quota, parse_speed, run_serve
from gradient_async.testing import Quota, ThreadedServer


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
    "arguments",
    [
        ["--replay", "/no/such/folder"],
        ["--host", "192.0.2.1"],
        ["--upstream", "inference.do-ai.run"],
        ["--record", "recordings"],
    ],
)
def test_serve_says_why_it_can_not(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *arguments]) == 1
    assert capsys.readouterr().err.startswith("gradient-async: ")


def test_serve_records_and_replays(tmp_path: Path, gradient_server: ThreadedServer) -> None:
    """Requests to the command's server are passed on and recorded, and replayed without the other server."""
    asked: list[subprocess.CompletedProcess[str]] = []
    folder = ["--record", str(tmp_path)]
    for arguments in (
        ["--upstream", gradient_server.url, *folder],
        ["--replay", str(tmp_path), "--speed", "max"],
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
    assert ["0001.sse", "manifest.jsonl"] == sorted(path.name for path in tmp_path.iterdir())


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
        options = argparse.Namespace(
            replay=None,
            speed=1.0,
            upstream=None,
            record=None,
            key=[],
            delay=0.0,
            quota=None,
            host="127.0.0.1",
            port=0,
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await run_serve(options)

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
