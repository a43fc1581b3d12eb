"""Run a target under atheris, which is led by coverage: ``python tests/fuzz/atheris_run.py chunks -max_total_time=600``.

Not part of the tests; needs ``pip install atheris``.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Fuzz the target that is named first; what follows are options of libFuzzer."""
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    fuzzer: Any = importlib.import_module("atheris")
    with fuzzer.instrument_imports(include=["gradient_async"]):
        from fuzz_targets import TARGETS  # noqa: PLC0415  # loaded inside, to be instrumented
    from benchmarks.fuzz import mutate  # noqa: PLC0415  # found by the path set above

    target = TARGETS[sys.argv[1]]

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        """Half of the time change bytes as we know how, otherwise as libFuzzer does."""
        dice = random.Random(seed)
        changed = mutate(data, dice) if dice.random() < 0.5 else fuzzer.Mutate(data, max_size)
        return changed[:max_size]

    fuzzer.Setup([sys.argv[0], *sys.argv[2:]], target, custom_mutator=mutated)
    fuzzer.Fuzz()


if __name__ == "__main__":
    main()
