"""n choices and many requests at once, bounded and paced."""

from .core import FanOut
from .fan import Fan
from .many import MapResult, Requests, Run
from .plan import FanOutResult, Plan, State, StopWhen
from .rate_limiter import RateLimiter
from .results import MapResults

__all__ = [
    "Fan",
    "FanOut",
    "FanOutResult",
    "MapResult",
    "MapResults",
    "Plan",
    "RateLimiter",
    "Requests",
    "Run",
    "State",
    "StopWhen",
]
