"""llama.cpp's server with a tiny model of our own, once for all tests here."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS_TO_START = 60

LlamaServer = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the model server where it is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="xllamacpp is not installed: pip install '.[llama]'"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        assert process.poll() is None, "the model server ended before it was asked anything"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1) as reply:  # noqa: S310  # our own server
                if reply.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    pytest.fail(f"no healthy model server within {SECONDS_TO_START} s")


@pytest.fixture(scope="session")
def llama() -> Iterator[LlamaServer]:
    """Start a server with a model, or with a key, and tell its URL; each is started once."""
    running: dict[tuple[str, str | None], str] = {}
    with ExitStack() as stack:

        def start(model: str = "tiny-chat.gguf", key: str | None = None) -> str:
            if (model, key) not in running:
                port = free_port()
                command = [sys.executable, str(HERE / "llama_server.py"), str(HERE / model), str(port)]
                process = stack.enter_context(
                    subprocess.Popen(
                        [*command, *([key] if key else [])],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                )
                stack.callback(process.kill)
                running[model, key] = f"http://127.0.0.1:{port}"
                wait_until_healthy(running[model, key], process)
            return running[model, key]

        yield start
