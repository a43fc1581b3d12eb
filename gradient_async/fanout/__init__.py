"""n choices and many requests at once, bounded and paced."""

from .many import MapResult, MapResults, Perform, Requests
from .pacer import Pacer

__all__ = ["MapResult", "MapResults", "Pacer", "Perform", "Requests"]
