"""`AsyncGradient` and its resources."""

from .core import AsyncGradient
from .response import APIResponse, ResponseContext

__all__ = ["APIResponse", "AsyncGradient", "ResponseContext"]
