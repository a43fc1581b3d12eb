"""`AsyncGradient` and its resources."""

from .client import AsyncGradient
from .raw import APIResponse
from .run import ToolRun

__all__ = ["APIResponse", "AsyncGradient", "ToolRun"]
