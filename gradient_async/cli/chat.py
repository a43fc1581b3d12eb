"""``gradient-async chat``: send a prompt to a model and show the answer as it arrives, or hold a conversation."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any

import msgspec

from ..errors import GradientError, InvalidRequestError, StreamError
from ..output import Answer, parse_completion
from ..stream import ChatCompletionStream, Timing
from ..types import ChatCompletion
from .command import (
    CLIENT_VARIABLES,
    MODEL_VARIABLES,
    SCREEN_VARIABLES,
    Command,
    add_client_arguments,
    default_model,
    open_client,
    positive_seconds,
    run,
)
from .conversation import Conversation, load, path_of
from .dialogue import DIALOGUE_VARIABLES, hold
from .display import complain, json_line, note, on_terminal, open_display, say, say_dim, say_json
from .problems import explain
from .prompts import content_of, image_of, param_of, text_of
from .schemas import answer_of

_LOCAL_DELAY = 0.02  # seconds between the simulated model's tokens: slow enough to watch
_FAILED = 1
_UNUSABLE = 2
_FENCED = re.compile(r"^ *(`{3,}|~{3,})[^\n]*\n(.*?)^ *\1", re.MULTILINE | re.DOTALL)
_CUTS = {"length": "cut at the limit of tokens", "content_filter": "cut by a content filter"}
# The type of answers if the option --schema names a file and not a type: any JSON object.
_ANY_OBJECT = Answer(dict[str, Any])


def run_chat(arguments: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 if the answer is whole; 1 if it is not; 2 if nothing was sent because the arguments are wrong.
    """
    try:
        chat = Chat(arguments)
        text = text_of(arguments.prompt)
    except ValueError as error:
        complain(str(error))
        return _UNUSABLE
    if text is None and on_terminal(sys.stdout) and not (arguments.json or arguments.extract):
        return hold(chat)
    if not (text and text.strip()) and not arguments.image:
        complain(
            "no prompt: write one behind the options, or pipe it" if text is None else "the prompt is empty"
        )
        return _UNUSABLE
    return chat.ask(content_of(text or "", arguments.image))


class Chat:
    """Sends messages of one conversation with the options of the command line, and shows the answers.

    Attributes:
        arguments: The arguments of the command.
        options: Parameters of the requests, as set by ``-o``.
        conversation: The conversation.

    Raises:
        ValueError: If there is no conversation to continue.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.options: dict[str, Any] = dict(arguments.options)
        self._received: ChatCompletion | None = None
        self.conversation = self._last() if arguments.resume else Conversation()
        self.conversation.model = arguments.model or self.conversation.model or default_model()
        if arguments.system is not None:
            self.conversation.system = arguments.system

    def _last(self) -> Conversation:
        try:
            return load(path_of(os.environ))
        except FileNotFoundError:
            raise ValueError("there is no conversation to continue; leave -c out to begin one") from None
        except (OSError, msgspec.MsgspecError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise ValueError(
                f"{path_of(os.environ)} can't be read: {problem}; leave -c out to begin anew"
            ) from None

    def ask(self, content: Any) -> int:
        """Send a message of the user, show the answer, and keep both; return an exit status as in `run_chat`."""
        self.conversation.ask(content)
        self._received = None
        try:
            return 0 if run(self._answer()) else _FAILED
        except GradientError as error:
            complain(f"{type(error).__name__}: {explain(error)}")
            partial = error.partial if isinstance(error, StreamError) else self._received
            if self.arguments.json and partial is not None:
                note(json_line(partial.to_dict()))
            return _UNUSABLE if isinstance(error, InvalidRequestError) else _FAILED
        finally:
            # The part of an answer before an error or Ctrl-C is kept as well, because the user may refer to it.
            if self.conversation.take(self._received):
                self.keep()

    def keep(self) -> None:
        """Write the conversation to its file, unless the user wants no file."""
        if self.arguments.no_log:
            return
        try:
            self.conversation.save(path_of(os.environ))
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            complain(f"the conversation is not kept: {place}{error.strerror}")

    async def _answer(self) -> bool:
        arguments, params = self.arguments, self._params()
        quiet = arguments.json or arguments.extract
        async with (
            open_client(arguments, delay=0.0 if quiet else _LOCAL_DELAY) as client,
            client.chat.completions.stream(**params) as stream,
        ):
            try:
                if not quiet:
                    await show(
                        stream,
                        params.get("n") or 1,
                        logprobs=bool(params.get("logprobs")),
                        schema=arguments.schema,
                    )
                elif arguments.json:
                    say_json((await stream.completion()).to_dict())
                else:
                    for choice in (await stream.completion()).choices:
                        say(extract(choice.message.content or ""))
            finally:
                self._received = stream.snapshot
            if arguments.json:
                return True
            _say_end(self._received, stream.timing)
            refusals = [choice.message.refusal for choice in self._received.choices if choice.message.refusal]
            if arguments.schema is None or not refusals:
                return True
            complain(f"the model gives no answer: {refusals[0]}")
            return False

    def _params(self) -> dict[str, Any]:
        arguments = self.arguments
        params: dict[str, Any] = {"model": self.conversation.model, "messages": self.conversation.to_send()}
        for name in ("n", "max_tokens", "temperature", "top_p", "seed", "stop", "timeout"):
            if getattr(arguments, name) is not None:
                params[name] = getattr(arguments, name)
        if arguments.logprobs:
            params |= {"logprobs": True, "top_logprobs": 3}
        if arguments.schema is not None:
            params["response_format"] = arguments.schema
        return params | self.options


async def show(
    stream: ChatCompletionStream,
    n: int = 1,
    *,
    logprobs: bool = False,
    schema: Answer[Any] | dict[str, Any] | None = None,
) -> None:
    """Show the ``n`` choices of a stream as they arrive.

    Args:
        stream: The stream.
        n: Number of choices.
        logprobs: Whether to show the probability of each token.
        schema: The form of the answers; None for text. Answers with a form are shown as values at the end.

    Raises:
        OutputError: If an answer does not have the form.
    """
    with open_display(sys.stdout, n, values=schema is not None) as display:
        async for chunk in stream:
            for choice in chunk.choices:
                display.add(choice, logprobs=logprobs)
        completion = await stream.completion()
        if schema is not None:
            # The library decodes answers whose form is a type. Answers whose form is a schema are decoded here.
            parsed = parse_completion(completion, schema if isinstance(schema, Answer) else _ANY_OBJECT)
            for answer in parsed.choices:
                value = answer.message.parsed
                if value is not None:
                    display.show_value(answer.index, msgspec.to_builtins(value, enc_hook=_plain))
        display.add_calls(completion)


def _plain(value: Any) -> Any:
    """Convert a model of pydantic to plain data, because msgspec cannot encode the model."""
    return value.model_dump(mode="json", by_alias=True)


def extract(text: str) -> str:
    """Return the first block of code in a text; without such a block, return the text."""
    found = _FENCED.search(text)
    return text if found is None else found[2].removesuffix("\n")


def _say_end(completion: ChatCompletion, timing: Timing) -> None:
    """Show tokens and seconds of an answer, and whether it was cut. If standard output is a pipe, only report a cut."""
    several = len(completion.choices) > 1
    cuts = [
        (f"choice {choice.index} was " if several else "") + _CUTS[choice.finish_reason]
        for choice in completion.choices
        if choice.finish_reason in _CUTS
    ]
    if not on_terminal(sys.stdout):
        for cut in cuts:
            complain(cut if several else f"the answer was {cut}")
        return
    usage, facts = completion.usage, [f"{timing.total:.1f} s"]
    if usage is not None:
        facts.insert(0, f"{usage.prompt_tokens} + {usage.completion_tokens} = {usage.total_tokens} tokens")
    if timing.first_token is not None:
        facts.append(f"first token after {timing.first_token:.1f} s")
    say_dim(f"[{', '.join(facts + cuts)}]")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    add = parser.add_argument
    add(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="text to send as the user, behind what is piped to the command; - reads standard input alone; without a "
        "prompt, the terminal holds a conversation",
    )
    add("-m", "--model", metavar="M", help=f"model to ask (default: {default_model().replace('%', '%%')})")
    add("-s", "--system", metavar="TEXT", help="system message: instructions to the model")
    add("-n", type=int, metavar="N", help="number of answers, shown side by side (default: 1)")
    add("-t", "--temperature", type=float, metavar="T", help="sampling temperature, from 0 to 2")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="fraction of the probability mass to sample from, from 0 to 1",
    )
    add("--max-tokens", type=int, metavar="K", help="maximum number of tokens to generate")
    add(
        "--seed",
        type=int,
        metavar="N",
        help="number that makes sampling repeatable, as far as the server can",
    )
    add("--stop", action="append", metavar="TEXT", help="text that ends the answer; may be repeated")
    add(
        "-o",
        action="append",
        type=param_of,
        default=[],
        dest="options",
        metavar="NAME=VALUE",
        help="any other parameter of the request; the value is JSON, or else text; may be repeated",
    )
    add(
        "--timeout",
        type=positive_seconds,
        metavar="S",
        help="seconds to wait for the first token, and between two tokens",
    )
    add(
        "--schema",
        type=answer_of,
        metavar="FILE|TYPE",
        help="form of the answer, which is printed as JSON: a file with a JSON schema, or a type such as module:Type",
    )
    add(
        "--image",
        action="append",
        type=image_of,
        default=[],
        metavar="FILE|URL",
        help="image to send with the prompt; - reads it from standard input; may be repeated",
    )
    add("-c", "--continue", action="store_true", dest="resume", help="continue the last conversation")
    add("--no-log", action="store_true", help="do not keep the conversation for --continue")
    add("-x", "--extract", action="store_true", help="print only the first block of code of the answer")
    add("--logprobs", action="store_true", help="show the probability of each token")
    add("--json", action="store_true", help="print only the whole completion, as one line of JSON")


COMMAND = Command(
    "chat",
    help="send a prompt to a model and show the answer as it arrives",
    description="Send a prompt to a model and show the answer as it arrives, or hold a conversation.",
    add_arguments=_add_arguments,
    run=run_chat,
    variables=CLIENT_VARIABLES | MODEL_VARIABLES | DIALOGUE_VARIABLES | SCREEN_VARIABLES,
)
