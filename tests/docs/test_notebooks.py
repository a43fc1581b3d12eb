"""The page on notebooks, in a kernel of Jupyter: its cells run, and an interrupt stops the model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks, check_output

from gradient_async.config import VARIABLES
from gradient_async.testing import HOLD, ThreadedServer, chunk, reply_sse, reply_writes, serve

pytest.importorskip("ipykernel")
manager: Any = pytest.importorskip("jupyter_client.manager")

PAGE = ROOT / "docs" / "notebooks.md"
UNENDING = reply_writes([*reply_sse(chunk("One, "), done=False).steps[:-1], HOLD])
SECONDS = 60
CLIENTS = """
from gradient_async import AsyncGradient, Gradient
client, gradient = AsyncGradient(), Gradient()
asked = {"model": "m", "messages": [{"role": "user", "content": "Count to five."}]}
"""
AWAITED = "completion = await client.chat.completions.create(**asked)"
PLAIN = "completion = gradient.chat.completions.create(**asked)"
STREAMED = """
async with client.chat.completions.stream(**asked) as stream:
    async for text in stream.text: print(text)
"""


class Kernel:
    """A kernel that runs cells.

    Args:
        folder: Where the cells run.
        environment: Variables of the kernel.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._manager = manager.KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(folder), env=environment)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=SECONDS)

    def begin(self, source: str) -> None:
        """Start a cell."""
        self._client.execute(source)

    def finish(self) -> tuple[str, str]:
        """Wait for the end of a cell; return what it printed, and the name of its error."""
        printed = error = ""
        while True:
            message = self._client.get_iopub_msg(timeout=SECONDS)
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed += content["text"]
            elif message["msg_type"] == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif content.get("execution_state") == "idle":
                return printed, error

    def run(self, source: str) -> tuple[str, str]:
        """Run a cell."""
        self.begin(source)
        return self.finish()

    def interrupt(self) -> None:
        """Interrupt the cell that is running."""
        self._manager.interrupt_kernel()

    def end(self) -> None:
        """End the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedServer]:
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def kernel(server: ThreadedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    ours = {name for names in VARIABLES.values() for name in names}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {
        "GRADIENT_MODEL_ACCESS_KEY": "any",
        "GRADIENT_INFERENCE_ENDPOINT": server.url,
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython")),
    }
    kernel = Kernel(tmp_path_factory.mktemp("notebook"), environment)
    try:
        yield kernel
    finally:
        kernel.end()


def test_every_cell_of_the_page_runs(kernel: Kernel) -> None:
    for block in blocks(PAGE, "python"):
        if "sys.exit(" in block.source:
            continue  # a script
        printed, error = kernel.run(block.source)
        assert "" == error, block.line
        check_output(block, printed)


def test_asyncio_run_is_refused_as_the_page_says(kernel: Kernel) -> None:
    kernel.run(CLIENTS)
    _, error = kernel.run("import asyncio\nasyncio.run(client.chat.completions.create(**asked))")
    assert "RuntimeError: asyncio.run() cannot be called from a running event loop" == error
    assert error.partition(": ")[2] in " ".join(PAGE.read_text("utf-8").split())


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("cell", "ended"),
    [
        (AWAITED, "CancelledError"),
        (STREAMED, "CancelledError"),
        (PLAIN, "KeyboardInterrupt"),
        (STREAMED.replace("async ", "").replace("client", "gradient"), "KeyboardInterrupt"),
    ],
)
def test_an_interrupt_stops_the_model(kernel: Kernel, server: ThreadedServer, cell: str, ended: str) -> None:
    """The connection closes, and the client works again."""
    kernel.run(CLIENTS)
    kernel.run(f"{AWAITED}\nawait client.close()\n{PLAIN}\ngradient.close()\n{CLIENTS}")
    server.requests.clear()
    server.push(UNENDING)
    kernel.begin(cell)
    server.wait_requests(1, timeout=SECONDS)
    kernel.interrupt()
    _, error = kernel.finish()
    assert ended == error.partition(":")[0]
    server.wait_closed_connections(0, timeout=SECONDS)
    assert ("One, two, three, four, five.\n", "") == kernel.run(
        f"{AWAITED}\nprint(completion.choices[0].message.content)"
    )
    assert ("One, two, three, four, five.\n", "") == kernel.run(
        f"{PLAIN}\nprint(completion.choices[0].message.content)"
    )
