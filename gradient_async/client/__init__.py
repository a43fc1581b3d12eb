"""`AsyncGradient` and its resources."""

from .core import AsyncGradient

__all__ = ["AsyncGradient"]
