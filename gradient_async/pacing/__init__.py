"""How fast to send many requests, as pure functions of clock readings and of what servers answer."""

from .concurrency import Concurrency
from .pace import Pace, Ticket, characters
from .spacing import Spacing
from .window import Window

__all__ = ["Concurrency", "Pace", "Spacing", "Ticket", "Window", "characters"]
