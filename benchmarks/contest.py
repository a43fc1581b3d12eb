"""Runs contenders one after the other, each in a process of its own, for several rounds."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Absent", "medians", "race"]

_ROOT = Path(__file__).parents[1]
_ABSENT = 3  # exit status of a contender that is not installed

Absent = ImportError


def race(
    function: str, contenders: Sequence[str], rounds: int, *, uvloop: bool = False, **arguments: Any
) -> dict[str, list[dict[str, float]]]:
    """Let contenders do the same work in turns.

    Args:
        function: ``module:function`` of a coroutine that takes the contender's name and the arguments, and returns
            figures.
        contenders: Their names.
        rounds: How many rounds; in each, everybody has one turn.
        uvloop: Whether to run on uvloop.
        **arguments: What the function takes.

    Returns:
        The figures of each contender, a dictionary a round. Who is not installed is left out.
    """
    found: dict[str, list[dict[str, float]]] = {}
    absent: set[str] = set()
    for turn in range(rounds):
        # Nobody always goes first.
        order = [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]
        for name in order:
            if name in absent:
                continue
            figures = _run(function, name, uvloop=uvloop, arguments=arguments)
            if figures is None:
                absent.add(name)
            else:
                found.setdefault(name, []).append(figures)
    return {name: found[name] for name in contenders if name in found}


def _run(function: str, name: str, *, uvloop: bool, arguments: Mapping[str, Any]) -> dict[str, float] | None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.contest", function, name, json.dumps(arguments), str(int(uvloop))],
        cwd=_ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        stdout=subprocess.PIPE,
        check=False,
        text=True,
        timeout=900,
    )
    if done.returncode == _ABSENT:
        return None
    if done.returncode:
        raise RuntimeError(f"{function} of {name} with {arguments} exited with {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}


def _main(function: str, name: str, arguments: str, uvloop: str) -> int:
    module, _, attribute = function.partition(":")
    work = getattr(importlib.import_module(module), attribute)
    factory = None
    if uvloop == "1":
        factory = importlib.import_module("uvloop").new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            figures = runner.run(work(name, **json.loads(arguments)))
    except Absent as missing:
        print(missing, file=sys.stderr)
        return _ABSENT
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
