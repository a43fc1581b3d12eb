"""Every command of the pages works, against the local server where it needs one."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks

from gradient_async.testing import chunk, sse

HAS_CLI = importlib.util.find_spec("gradient_async.cli") is not None
COMMANDS = sorted(
    {
        line
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for block in blocks(page, "sh")
        for line in block.source.splitlines()
        if line.startswith("gradient-async ")
    }
)


@pytest.mark.skipif(not HAS_CLI, reason="there is no command line yet")
@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, tmp_path: Path) -> None:
    """What would call a model calls the local server; what would serve for ever serves for a moment."""
    arguments = shlex.split(command)[1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADIENT")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    if arguments[0] == "serve":
        arguments[arguments.index("--port") + 1] = "0"
        (tmp_path / "recordings").mkdir()
        (tmp_path / "recordings" / "hello.sse").write_bytes(sse(chunk("Hello", finish_reason="stop")))
    elif arguments[0] == "map":
        request = {"messages": [{"role": "user", "content": "Hello"}]}
        (tmp_path / arguments[1]).write_text(json.dumps(request), "utf-8")
        if "--local" not in arguments:
            arguments.append("--local")
    elif arguments[0] == "chat" and "--local" not in arguments:
        arguments.insert(1, "--local")
    process = subprocess.Popen(  # our own interpreter
        [sys.executable, "-m", "gradient_async", *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        if arguments[0] == "serve":
            assert "http://127.0.0.1:" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        else:
            printed, _ = process.communicate(timeout=60)
            assert 0 == process.returncode, printed
            assert printed
    finally:
        process.kill()
        process.communicate()


def test_commands_are_found() -> None:
    """The search for commands finds those of the README."""
    assert any(command.startswith("gradient-async chat --local") for command in COMMANDS)
