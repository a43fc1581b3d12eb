"""Mutated streams, bodies and headers through every target; and over HTTP, a small run of the benchmark."""

from __future__ import annotations

import asyncio
import gzip
import random

import pytest
from fuzz_targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import BODIES, HEADERS, STREAMS, fuzz, mutate

SEEDS = {
    "events": STREAMS,
    "chunks": STREAMS,
    "replies": BODIES,
    "headers": ["\n".join(fields.values()).encode() for fields in HEADERS]
    + [b"1s\n20m\n", b"1e400\n-5\nnan"],
    "gunzip": [gzip.compress(stream) + gzip.compress(b"x" * 5000) for stream in STREAMS],
}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
        TARGETS[name](b"")


@pytest.mark.parametrize("name", TARGETS)
@given(chance=st.integers(0, 2**64), seed=st.integers(0, 3), rounds=st.integers(1, 3))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_break_no_promise(name: str, chance: int, seed: int, rounds: int) -> None:
    dice = random.Random(chance)
    data = SEEDS[name][seed % len(SEEDS[name])]
    for _ in range(rounds):
        data = mutate(data, dice)
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_break_no_promise(name: str, data: bytes) -> None:
    TARGETS[name](data)


def test_nothing_but_errors_of_ours_leaves_the_client() -> None:
    """A hundredth of what ``python -m benchmarks.fuzz`` does."""
    report = asyncio.run(fuzz(0.1, seed=3))
    assert report["faults"] == []
    assert report["bytes"] > 100_000
    assert len(report["outcomes"]) > 8
