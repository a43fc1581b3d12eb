"""Every example of the README and of the documentation works as it is printed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks, check_output, run_page, run_tests

from gradient_async.config import VARIABLES
from gradient_async.testing import ThreadedServer, serve

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    """The simulated model, where a client without arguments finds it."""
    for names in VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    with serve() as server:
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "model-key")
        monkeypatch.setenv("GRADIENT_AGENT_ACCESS_KEY", "agent-key")
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", server.url)
        monkeypatch.setenv("GRADIENT_AGENT_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(
    page: Path,
    local: ThreadedServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Blocks run in their order, and print what they say they print."""
    monkeypatch.chdir(tmp_path)
    source = "".join(block.source for block in blocks(page, "python") if not block.missing)
    if re.search("^(import|from) (gradient|openai|ray)\\b", source, re.MULTILINE):
        warnings.simplefilter("default")  # these packages warn of themselves and of their dependencies
    if "import ray" in source:
        request.getfixturevalue("ray")  # a small cluster, in place of the one that Ray would start
    run_page(page)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.is_test for block in blocks(page, "python"))],
    ids=lambda page: page.name,
)
def test_tests_of_the_pages_pass(
    page: Path, local: ThreadedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tests that a page shows pass under pytest, with nothing but the plugin; what they record, they replay."""
    if "RECORD_FROM" in page.read_text("utf-8"):
        monkeypatch.setenv("RECORD_FROM", local.url)
        run_tests(page, tmp_path)
        monkeypatch.delenv("RECORD_FROM")
    asked = len(local.requests)
    run_tests(page, tmp_path)
    assert asked == len(local.requests)


def test_a_broken_promise_is_seen() -> None:
    """The check of output is no rubber stamp."""
    block = Block("python", "print(1)  # prints: 1\nprint(2)  # prints: 3", 1, Path("page.md"))
    check_output(block, "1\n3\n")
    with pytest.raises(AssertionError, match="never printed '3'"):
        check_output(block, "1\n2\n")
    with pytest.raises(AssertionError, match="never printed '3'"):
        check_output(block, "3\n1\n")
