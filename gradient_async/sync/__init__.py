"""The client without asyncio, for scripts, notebooks and threads: a thin face over `AsyncGradient`.

`loop.py` has the event loop and its thread, and says how calls are handed over, interrupted, and ended with the process.
`streams.py` reads streams in the caller's thread, `requests.py` takes the requests of ``map`` from the caller's iterable,
`run.py` hands over the events of a run, and `client.py` has the client and its resources.
"""

from .client import AgentCompletions, Agents, Chat, Completions, Gradient, Models
from .requests import MapResults
from .run import ToolRun
from .streams import ChoiceView, FanOut, ParsedStream, Stream, View

__all__ = [
    "AgentCompletions",
    "Agents",
    "Chat",
    "ChoiceView",
    "Completions",
    "FanOut",
    "Gradient",
    "MapResults",
    "Models",
    "ParsedStream",
    "Stream",
    "ToolRun",
    "View",
]
