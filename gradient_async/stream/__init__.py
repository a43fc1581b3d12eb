"""The reader of one reply, and the stream that users hold."""

from .cursor import ChoiceStream, ChunkSource, ChunkStream, EventStream, TextStream
from .misuse import AsyncForOnly, AsyncOnly, EnterFirst, NoMethod, SyncOnly
from .reader import StreamReader, premature_end
from .stream import ChatCompletionStream, ParsedChatCompletionStream, RawStream, StreamManager
from .timing import ReadTimes, Timing

__all__ = [
    "AsyncForOnly",
    "AsyncOnly",
    "ChatCompletionStream",
    "ChoiceStream",
    "ChunkSource",
    "ChunkStream",
    "EnterFirst",
    "EventStream",
    "NoMethod",
    "ParsedChatCompletionStream",
    "RawStream",
    "ReadTimes",
    "StreamManager",
    "StreamReader",
    "SyncOnly",
    "TextStream",
    "Timing",
    "premature_end",
]
