"""The recordings that the tests of the corpus read, and what an independent oracle made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "BODIES",
    "CORPUS",
    "ERRORS",
    "STREAMS",
    "body_of",
    "error_of",
    "expected_of",
    "needs_corpus",
    "reads_of",
]

CORPUS = Path(
    os.environ.get("GRADIENT_ASYNC_CORPUS") or Path(__file__).parents[2] / ".." / "shared" / "corpus"
)
STREAMS = sorted((CORPUS / "streams").glob("*.sse"))
BODIES = sorted((CORPUS / "bodies").glob("*.json"))
ERRORS = sorted((CORPUS / "errors").glob("*.json"))

needs_corpus = pytest.mark.skipif(
    not STREAMS, reason="no recordings: GRADIENT_ASYNC_CORPUS and ../shared/corpus are absent"
)


def expected_of(stream: Path) -> dict[str, Any]:
    """Return what the oracle assembled from a recorded stream."""
    text = (CORPUS / "expected" / f"{stream.stem}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def body_of(path: Path) -> dict[str, Any]:
    """Return a recorded body, decoded naively."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def error_of(path: Path) -> tuple[int, bytes]:
    """Return status and body of a recorded error."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return int(found["status"]), str(found["body_text"]).encode("utf-8", "surrogatepass")


def reads_of() -> dict[str, list[int]]:
    """Return the sizes of socket reads, for the recordings that have them."""
    if not STREAMS:
        return {}
    lines = (CORPUS / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return {
        Path(entry["file"]).name: entry["recorded_read_sizes"]
        for entry in entries
        if "recorded_read_sizes" in entry
    }
