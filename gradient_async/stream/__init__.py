"""The reader of one reply, and the stream that users hold."""

from .cursor import ChoiceStream, ChunkSource, ChunkStream, EventStream, TextStream
from .misuse import AsyncOnly
from .reader import StreamReader, premature_end
from .stream import ChatCompletionStream, RawStream, StreamManager
from .timing import ReadTimes, Timing

__all__ = [
    "AsyncOnly",
    "ChatCompletionStream",
    "ChoiceStream",
    "ChunkSource",
    "ChunkStream",
    "EventStream",
    "RawStream",
    "ReadTimes",
    "StreamManager",
    "StreamReader",
    "TextStream",
    "Timing",
    "premature_end",
]
