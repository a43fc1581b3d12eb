"""Runs the examples of a page as a reader would: one block after the other, in one namespace.

A block may use ``await`` at its top level. A comment ``# prints: TEXT`` promises a line of output, at the end
of the line that prints it or on lines of its own below; ``...`` in TEXT stands for anything. What else a page
prints is not looked at. Blocks that define tests are run by pytest, in a process of their own.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Block", "blocks", "check_output", "promises", "run_blocks", "run_page", "run_tests"]

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<source>.*?)^```$", re.DOTALL | re.MULTILINE)
_PROMISE = re.compile(r"# prints: ?(?P<text>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: What follows the fence's three ticks.
        source: The text between the fences.
        line: Line of the page that it begins on, from 1.
        page: Path of the page.
    """

    language: str
    source: str
    line: int
    page: Path

    @property
    def missing(self) -> list[str]:
        """The packages that it imports and that are not installed, of those that only some environments have."""
        imported = re.findall(
            r"^(?:import|from) (celery|dask|django|gradient|openai|pydantic|ray)\b",
            self.source,
            re.MULTILINE,
        )
        return [name for name in imported if importlib.util.find_spec(name) is None]

    @property
    def is_test(self) -> bool:
        """Whether it is a file of tests."""
        return re.search(r"^(async )?def test_", self.source, re.MULTILINE) is not None


def blocks(page: Path, *languages: str) -> list[Block]:
    """Read the blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(found["language"], found["source"], text.count("\n", 0, found.start("source")) + 1, page)
        for found in _BLOCK.finditer(text)
        if found["language"] in languages
    ]


def promises(source: str) -> list[str]:
    """Return the lines that a block promises to print."""
    return [found["text"].rstrip() for found in _PROMISE.finditer(source)]


def check_output(block: Block, printed: str) -> None:
    """Fail unless the promised lines were printed, in their order."""
    lines = iter(line.rstrip() for line in printed.splitlines())
    for promise in promises(block.source):
        pattern = re.compile(re.escape(promise).replace(r"\.\.\.", ".*"))
        assert any(pattern.fullmatch(line) for line in lines), (
            f"{block.page.name}, block at line {block.line}: never printed {promise!r}; printed:\n{printed}"
        )


def run_page(page: Path, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the Python blocks of a page, tests excepted; return what they defined."""
    return run_blocks(blocks(page, "python"), namespace)


def run_blocks(found: Iterable[Block], namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run blocks of Python in one namespace, tests excepted; return what they defined."""
    scope: dict[str, Any] = {"__name__": "__page__"} if namespace is None else namespace
    with asyncio.Runner() as runner:
        for block in found:
            if not block.is_test and not block.missing:
                check_output(block, _run(block, scope, runner))
    return scope


def _run(block: Block, scope: dict[str, Any], runner: asyncio.Runner) -> str:
    # Blank lines before the source make tracebacks name the line of the page.
    source = "\n" * (block.line - 1) + block.source
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, str(block.page), "exec", flags, dont_inherit=True)
    printed = io.StringIO()

    async def main() -> None:
        await eval(code, scope)  # noqa: S307  # the example itself

    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(main())
        else:
            exec(code, scope)  # noqa: S102  # the example itself
    return printed.getvalue()


def run_tests(page: Path, folder: Path) -> None:
    """Write the blocks of a page that are tests to files, and run them with pytest."""
    found = [block for block in blocks(page, "python") if block.is_test]
    for number, block in enumerate(found):
        (folder / f"test_block_{number}.py").write_text(block.source, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", "utf-8")
    installed = {entry.name for entry in metadata.entry_points(group="pytest11")}
    plugin = [] if "gradient_async" in installed else ["-p", "gradient_async.testing.plugin"]
    done = subprocess.run(  # our own interpreter
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            *plugin,
            str(folder),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
