"""n choices and many requests at once, bounded and paced."""

from .core import FanOut
from .fan import Fan
from .many import MapResult, Requests, Run
from .pacer import Pacer
from .plan import FanOutResult, Plan, State, StopWhen
from .results import MapResults

__all__ = [
    "Fan",
    "FanOut",
    "FanOutResult",
    "MapResult",
    "MapResults",
    "Pacer",
    "Plan",
    "Requests",
    "Run",
    "State",
    "StopWhen",
]
