"""The conversation of ``chat``, and the file that keeps it, which only the user can read."""

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
        """Return the messages for a request, the system message first."""
        first: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return first + self.messages

    def ask(self, content: Any) -> None:
        """Add a message of the user."""
        self.messages.append({"role": "user", "content": content})

    def take(self, completion: ChatCompletion | None) -> bool:
        """Add the first answer, which may be incomplete. If the answer has no text, remove the question.

        Returns:
            Whether there is an answer.
        """
        message = completion.choices[0].message if completion is not None and completion.choices else None
        # Tool calls are left out: a history with tool calls also needs their results, and here no tool runs.
        text = "" if message is None else message.content or message.refusal
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()
        return bool(text)

    def withdraw(self) -> Any:
        """Remove the last question and its answer; return the content of the question, or None if there is no question."""
        while self.messages:
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        return None

    def save(self, path: Path) -> None:
        """Write the conversation to a file. If this fails, the old file stays as it is.

        Raises:
            OSError: If the file can't be written.
        """
        folder = path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        handle, name = tempfile.mkstemp(dir=folder)  # `mkstemp` makes a file that only the user can read
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
        OSError: If the file can't be read, for example because there is none.
        ValueError: If the file does not contain a conversation.
    """
    return msgspec.json.decode(path.read_bytes(), type=Conversation)


def path_of(environ: Mapping[str, str]) -> Path:
    """Return the path of the last conversation, in the folder for state of the XDG specification.

    Raises:
        OSError: If the user has no home directory.
    """
    folder = Path(environ.get("XDG_STATE_HOME", ""))
    if not folder.is_absolute():
        try:
            folder = Path.home() / ".local" / "state"
        except RuntimeError:
            raise OSError(errno.ENOENT, "there is no home directory; set XDG_STATE_HOME") from None
    return folder / "gradient-async" / "conversation.json"
