"""A key, and everything in an error that could show the key."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

__all__ = ["KEY", "MIDDLE", "everything_shown", "expect_plain_cause"]

KEY = "sk-secret-0123456789-abcdef-KEY"
MIDDLE = KEY[6:-6]
HERE = Path(__file__).parent


def expect_plain_cause(error: BaseException) -> OSError:
    """Expect a cause that is an error of the operating system, and holds nothing but its number and text."""
    cause = error.__cause__
    assert isinstance(cause, OSError)
    assert type(cause).__module__ in {"builtins", "socket", "ssl"}
    assert ({}, (cause.errno, cause.strerror)) == (vars(cause), cause.args)
    assert (None, None, None) == (cause.__cause__, cause.__context__, cause.__traceback__)
    return cause


def everything_shown(error: BaseException) -> str:
    """Return everything that an error shows: text, attributes, pickle, and the frames that are not in the tests."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [
        repr((frame.name, frame.locals)) for frame in stack.stack if HERE not in Path(frame.filename).parents
    ]
    assert error.__context__ is None
    causes = [expect_plain_cause(error)] if error.__cause__ else []
    assert frames
    return "".join(
        [*map(repr, causes), *frames, str(error), repr(error), repr(vars(error)), repr(pickle.dumps(error))]
    )
