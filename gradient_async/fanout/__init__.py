"""n choices and many requests at once, bounded and paced."""

from .core import FanOut
from .fan import Fan, FanOutResult, Plan, State, StopWhen
from .many import MapResult, MapResults, Perform, Requests
from .pacer import Pacer

__all__ = [
    "Fan",
    "FanOut",
    "FanOutResult",
    "MapResult",
    "MapResults",
    "Pacer",
    "Perform",
    "Plan",
    "Requests",
    "State",
    "StopWhen",
]
