"""`AsyncGradient` and its resources."""

from .client import AsyncGradient
from .raw import APIResponse

__all__ = ["APIResponse", "AsyncGradient"]
