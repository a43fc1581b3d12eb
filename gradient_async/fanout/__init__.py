"""Several requests at once: n choices of one prompt, or many requests, as fast as the server's rate limits allow."""

from .branch import Requester, StreamedReply
from .fan_out import FanOut
from .map import MapResult, MapResults, MapWorkers, Requests
from .rate_limiter import RateLimiter
from .runner import FanOutOptions, FanOutResult, FanOutRunner, StopWhen

__all__ = [
    "FanOut",
    "FanOutOptions",
    "FanOutResult",
    "FanOutRunner",
    "MapResult",
    "MapResults",
    "MapWorkers",
    "RateLimiter",
    "Requester",
    "Requests",
    "StopWhen",
    "StreamedReply",
]
