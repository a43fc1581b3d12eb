"""A conversation on a terminal: ``chat`` without a prompt."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..errors import escape
from .conversation import Conversation
from .display import complain, say, say_dim, show_cursor
from .prompts import content_of, image_of, param_of

# Windows has no readline, and needs none: its console edits lines.
readline: Any = importlib.import_module("readline") if importlib.util.find_spec("readline") else None

DIALOGUE_VARIABLES = {
    "XDG_STATE_HOME": "folder that keeps the last conversation, in gradient-async/; ~/.local/state if not set",
    "VISUAL": "editor for /edit in a conversation; EDITOR if not set",
}

_MAX_SHOWN = 60  # maximum characters that are shown of a question that was removed

# Name, arguments and meaning of each command.
_HELP = (
    ("/help", "", "list the commands"),
    ("/model", "[NAME]", "show the model, or choose another"),
    ("/system", "[TEXT]", "show the system message, or set it; - removes it"),
    ("/set", "[NAME[=VALUE]]", "show the parameters, set one as -o does, or remove one"),
    ("/image", "FILE|URL", "send an image with the next message"),
    ("/file", "FILE", "send the text of a file with the next message"),
    ("/edit", "[TEXT]", "write the next message in an editor"),
    ("/retry", "", "ask the last question again"),
    ("/undo", "", "take the last question and its answer away"),
    ("/clear", "", "begin a new conversation"),
    ("/save", "FILE", "write the conversation to a new file, as Markdown"),
    ("/exit", "", "leave; Ctrl-D does the same"),
)


class Asker(Protocol):
    """The part of `Chat` that a dialogue uses."""

    arguments: argparse.Namespace
    options: dict[str, Any]
    conversation: Conversation

    def ask(self, content: Any) -> int:
        """Send a message, and show the answer."""
        ...

    def keep(self) -> None:
        """Write the conversation to its file."""
        ...


def hold(chat: Asker) -> int:
    """Hold a conversation until the user leaves; return the exit status."""
    dialogue = Dialogue(chat)
    dialogue.begin()
    interrupted = False
    while True:
        try:
            if interrupted:
                interrupted = False
                show_cursor()
                say()
            if not dialogue.step():
                return 0
        except KeyboardInterrupt:
            # Ctrl-C ends the line that the user is writing, or the answer; the received part of the answer stays in the
            # conversation. The rest is done at the next turn of the loop, inside `try`, because the user may press Ctrl-C again.
            interrupted = True


class Dialogue:
    """Reads messages and commands, line by line, until the user leaves."""

    def __init__(self, chat: Asker) -> None:
        self._chat = chat
        self._images: list[dict[str, Any]] = list(chat.arguments.image)  # for the next message
        self._texts: list[str] = []
        self._unanswered: Any = None  # the last message, if no answer has put it into the conversation

    def begin(self) -> None:
        """Show the model and how to leave, and let the arrow keys recall earlier messages."""
        conversation = self._chat.conversation
        if readline is not None:
            readline.set_completer(_complete)
            readline.set_completer_delims("")
            readline.parse_and_bind("tab: complete")
            for message in conversation.messages:
                if message["role"] == "user" and isinstance(message["content"], str):
                    readline.add_history(message["content"])
        so_far = f", {len(conversation.messages)} messages so far" if conversation.messages else ""
        say_dim(f"{conversation.model}{so_far}; /help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")

    def step(self) -> bool:
        """Read a message or a command, and send or run it; return False if the user leaves."""
        try:
            line = _read()
        except EOFError:
            say()
            return False
        except UnicodeDecodeError:
            complain("that is not text")
            return True
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line.partition(" ")
            return self._command(name, rest.strip())
        self._send(line.removeprefix("/") if line.startswith("//") else line)
        return True

    def _send(self, text: str) -> None:
        text = "\n\n".join([*self._texts, text] if text.strip() else self._texts)
        if text or self._images:
            content = content_of(text, self._images)
            self._images, self._texts = [], []
            self._ask(content)

    def _ask(self, content: Any) -> None:
        messages = self._chat.conversation.messages
        before = len(messages)
        try:
            self._chat.ask(content)
        finally:  # runs also after Ctrl-C
            self._unanswered = content if len(messages) == before else None

    def _command(self, name: str, rest: str) -> bool:
        if name in {"/exit", "/quit"}:
            return False
        command: Callable[[str], None] | None = getattr(self, f"_do_{name[1:]}", None)
        if command is None:
            complain(
                f"{name}: no such command; /help lists them. A message that begins with / is written with //"
            )
            return True
        argument = next((argument for known, argument, _ in _HELP if known == name), "")
        if argument.startswith("FILE"):
            if not rest:
                complain(f"{name} needs {argument}")
                return True
            rest = os.path.expanduser(rest)  # noqa: PTH111  # a Path would change a URL
        try:
            command(rest)
        except argparse.ArgumentTypeError as error:
            complain(str(error))
        except UnicodeDecodeError:
            complain(f"{name} {rest}: not a text")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            complain(f"{name} {rest}: {reason}")
        return True

    def _do_help(self, _rest: str) -> None:
        for name, argument, meaning in _HELP:
            say(f"  {f'{name} {argument}':<22} {meaning}")
        say("A line that ends with \\ goes on in the next line.")

    def _do_model(self, name: str) -> None:
        self._chat.conversation.model = name or self._chat.conversation.model
        say_dim(f"model: {self._chat.conversation.model}")

    def _do_system(self, text: str) -> None:
        if text:
            self._chat.conversation.system = None if text == "-" else text
        say_dim(f"system message: {self._chat.conversation.system or 'none'}")

    def _do_set(self, text: str) -> None:
        options = self._chat.options
        if "=" in text:
            options |= [param_of(text)]
        elif text:
            options.pop(text, None)
        say_dim(
            f"parameters: {', '.join(f'{name}={value}' for name, value in options.items()) or 'none by -o'}"
        )

    def _do_image(self, text: str) -> None:
        self._images.append(image_of(text))
        say_dim(f"images for the next message: {len(self._images)}")

    def _do_file(self, path: str) -> None:
        self._texts.append(f"{path}:\n{Path(path).read_text('utf-8')}")
        say_dim(f"files for the next message: {len(self._texts)}")

    def _do_edit(self, text: str) -> None:
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "message.md"
            path.write_text(text, "utf-8")
            if subprocess.run([*shlex.split(editor), str(path)], check=False).returncode:  # noqa: S603  # the user's own
                raise ValueError(f"{editor} failed")
            message = path.read_text("utf-8").strip()
        say(message)
        self._send(message)

    def _do_retry(self, _rest: str) -> None:
        content = self._take_back()
        if content is None:
            complain("there is no question to ask again")
        else:
            self._ask(content)

    def _do_undo(self, _rest: str) -> None:
        end = "" if self._unanswered is None else " (it had no answer)"
        content = self._take_back()
        if content is None:
            complain("there is no question to take away")
            return
        self._chat.keep()  # what was taken away is not left in the file
        question = escape(" ".join(_text_of(content).split()), _MAX_SHOWN)
        say_dim(f"taken away: {question}{end}; {len(self._chat.conversation.messages)} messages left")

    def _take_back(self) -> Any:
        """Take the last question away, with its answer if it has one; return its content, or None if there is none."""
        content, self._unanswered = self._unanswered, None
        return self._chat.conversation.withdraw() if content is None else content

    def _do_clear(self, _rest: str) -> None:
        self._unanswered = None
        self._chat.conversation.messages.clear()
        say_dim("a new conversation")

    def _do_save(self, path: str) -> None:
        with Path(path).open("x", encoding="utf-8") as file:
            file.writelines(
                f"## {message['role']}\n\n{_text_of(message['content'])}\n\n"
                for message in self._chat.conversation.to_send()
            )
        say_dim(f"written to {path}")


def _read() -> str:
    """Read a message of one line. If a line ends with a backslash, the message continues on the next line."""
    line = input("> ")
    while line.endswith("\\"):
        line = f"{line[:-1]}\n{input('. ')}"
    return line


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(part.get("text", "(an image)") for part in content)


def _complete(text: str, state: int) -> str | None:
    """Complete the name of a command, for readline."""
    found = [name for name, _, _ in _HELP if text and name.startswith(text)]
    return found[state] if state < len(found) else None
