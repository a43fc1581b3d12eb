"""`ChatCompletionStream`, the async iterator, and its views."""

from .base import ChunkStream
from .core import ChatCompletionStream
from .manager import StreamManager
from .sniff import has_content
from .source import Source
from .timing import Pace, Timing
from .views import ChoiceStream, EventStream, RawStream, TextStream

__all__ = [
    "ChatCompletionStream",
    "ChoiceStream",
    "ChunkStream",
    "EventStream",
    "Pace",
    "RawStream",
    "Source",
    "StreamManager",
    "TextStream",
    "Timing",
    "has_content",
]
