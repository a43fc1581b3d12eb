"""`ChatCompletionStream`, the async iterator, and its views."""

from .core import ChatCompletionStream
from .manager import StreamManager
from .timing import Timing
from .views import ChoiceStream, EventStream, RawStream, TextStream

__all__ = [
    "ChatCompletionStream",
    "ChoiceStream",
    "EventStream",
    "RawStream",
    "StreamManager",
    "TextStream",
    "Timing",
]
