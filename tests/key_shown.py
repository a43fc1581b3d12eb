"""A key to look for, and all the places of an error where it could show."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

__all__ = ["KEY", "MIDDLE", "shown"]

KEY = "sk-secret-0123456789-abcdef-KEY"
MIDDLE = KEY[6:-6]
HERE = Path(__file__).parent


def shown(error: BaseException) -> str:
    """All that can be seen of an error; of its frames those that are not the tests' own."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [
        repr((frame.name, frame.locals)) for frame in stack.stack if HERE not in Path(frame.filename).parents
    ]
    assert error.__context__ is None
    assert error.__cause__ is None
    assert frames
    return "".join([*frames, str(error), repr(error), repr(vars(error)), repr(pickle.dumps(error))])
