"""The conversation that ``chat`` holds, and its file, which only the user can read."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from ..types import ChatCompletion


class Message(TypedDict):
    """One message of a conversation."""

    role: str
    content: Any


class Conversation(msgspec.Struct):
    """Messages to a model and from it.

    Attributes:
        model: Name of the model; None if none was chosen.
        system: The system message, or None.
        messages: The other messages.
    """

    model: str | None = None
    system: str | None = None
    messages: list[Message] = []

    def to_send(self) -> list[Message]:
        """Return all messages."""
        first: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return first + self.messages

    def ask(self, content: Any) -> None:
        """Add a message of the user."""
        self.messages.append({"role": "user", "content": content})

    def take(self, completion: ChatCompletion | None) -> bool:
        """Add the first answer, as far as it came; without any text, take the question away.

        Returns:
            Whether there is an answer.
        """
        message = completion.choices[0].message if completion is not None and completion.choices else None
        # Calls of tools would need results, which nobody gives here.
        text = "" if message is None else message.content or message.refusal
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()
        return bool(text)

    def withdraw(self) -> Any:
        """Take the last question and its answer away; return the content of the question, or None if there is none."""
        while self.messages:
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        return None

    def save(self, path: Path) -> None:
        """Write the file, as a whole or not at all.

        Raises:
            OSError: If it can't be written.
        """
        folder = path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        handle, name = tempfile.mkstemp(dir=folder)  # with mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(self))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def load(path: Path) -> Conversation:
    """Read the last conversation.

    Raises:
        OSError: If there is none.
        ValueError: If the file is none.
    """
    return msgspec.json.decode(path.read_bytes(), type=Conversation)


def path_of(environ: Mapping[str, str]) -> Path:
    """Return the path of the last conversation, in the folder for state by the XDG specification.

    Raises:
        OSError: If the user has no home.
    """
    folder = Path(environ.get("XDG_STATE_HOME", ""))
    if not folder.is_absolute():
        try:
            folder = Path.home() / ".local" / "state"
        except RuntimeError:
            raise OSError(errno.ENOENT, "there is no home directory; set XDG_STATE_HOME") from None
    return folder / "gradient-async" / "conversation.json"
