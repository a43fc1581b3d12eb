"""What several requests at once may end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from ..types import ChatCompletion
from .base import GradientError

__all__ = ["FanOutError"]


class FanOutError(GradientError, ExceptionGroup[Exception]):  # pyright: ignore[reportIncompatibleVariableOverride]  # message is the group's, which can only be read
    """Some of several requests failed, and the others were given up; the group holds every error.

    Attributes:
        message: How many failed, and the first of the errors.
        errors: The errors, by the index of the choice or request they belong to.
        partial: Everything received of all choices, assembled; None for requests that have nothing in common.
    """

    errors: dict[int, Exception]
    partial: ChatCompletion | None

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        *,
        errors: Mapping[int, Exception] | None = None,
        partial: ChatCompletion | None = None,
    ) -> Self:
        """Make the group; it has to hold an error at least."""
        del errors, partial
        return super().__new__(cls, message, exceptions)

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        *,
        errors: Mapping[int, Exception] | None = None,
        partial: ChatCompletion | None = None,
    ) -> None:
        # The group keeps message and errors itself, and lets nobody set them.
        Exception.__init__(self, message, exceptions)
        self.errors = dict(errors or {})
        self.partial = partial

    def derive(self, excs: Sequence[Any]) -> Any:
        """Make the group of some of its errors, as ``except*`` and `split` need it."""
        kept = {index: error for index, error in self.errors.items() if error in excs}
        return FanOutError(self.message, excs, errors=kept, partial=self.partial)
