"""Several requests at once: n choices of one prompt, or many requests, as fast as the server's rate limits allow."""

from .branch import Requester, StreamedReply
from .fan_out import FanOut
from .map import MapResult, MapResults, MapWorkers, Requests
from .runner import FanOutOptions, FanOutResult, FanOutRunner, StopWhen

__all__ = [
    "FanOut",
    "FanOutOptions",
    "FanOutResult",
    "FanOutRunner",
    "MapResult",
    "MapResults",
    "MapWorkers",
    "Requester",
    "Requests",
    "StopWhen",
    "StreamedReply",
]
