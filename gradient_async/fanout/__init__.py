"""Several requests at once: n choices of one prompt, or many requests, as fast as the server's rate limits allow."""

from .branch import Requester, StreamedReply
from .fan_out import FanOut
from .journal import Journal
from .map import MapFailure, MapResult, MapResults, MapSuccess, MapWorkers, Requests
from .rate_limiter import RateLimiter
from .runner import FanOutOptions, FanOutResult, FanOutRunner, StopWhen

__all__ = [
    "FanOut",
    "FanOutOptions",
    "FanOutResult",
    "FanOutRunner",
    "Journal",
    "MapFailure",
    "MapResult",
    "MapResults",
    "MapSuccess",
    "MapWorkers",
    "RateLimiter",
    "Requester",
    "Requests",
    "StopWhen",
    "StreamedReply",
]
