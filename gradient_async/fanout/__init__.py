"""n choices and many requests at once, bounded and paced."""

from .core import FanOut
from .fan import Fan
from .map import MapResult, MapResults, MapWorkers, Requests
from .plan import FanOutResult, Plan, State, StopWhen
from .rate_limiter import RateLimiter

__all__ = [
    "Fan",
    "FanOut",
    "FanOutResult",
    "MapResult",
    "MapResults",
    "MapWorkers",
    "Plan",
    "RateLimiter",
    "Requests",
    "State",
    "StopWhen",
]
