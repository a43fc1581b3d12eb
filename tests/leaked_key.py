"""A key, and everything in an error that could show the key."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

__all__ = ["KEY", "MIDDLE", "everything_shown"]

KEY = "sk-secret-0123456789-abcdef-KEY"
MIDDLE = KEY[6:-6]
HERE = Path(__file__).parent


def everything_shown(error: BaseException) -> str:
    """Return everything that an error shows: text, attributes, pickle, and the frames that are not in the tests."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [
        repr((frame.name, frame.locals)) for frame in stack.stack if HERE not in Path(frame.filename).parents
    ]
    assert error.__context__ is None
    assert error.__cause__ is None
    assert frames
    return "".join([*frames, str(error), repr(error), repr(vars(error)), repr(pickle.dumps(error))])
