"""The ways in which tests of the core feed bytes, because it must not matter where the network cuts them."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["feedings", "one_by_one"]


def one_by_one(wire: bytes) -> list[bytes]:
    """Cut bytes into single bytes."""
    return [wire[at : at + 1] for at in range(len(wire))]


def feedings(wire: bytes) -> Iterator[list[bytes]]:
    """Give bytes whole, byte by byte, and cut once at every position with an empty read in between."""
    yield [wire]
    yield one_by_one(wire)
    for cut in range(len(wire) + 1):
        yield [wire[:cut], b"", wire[cut:]]
