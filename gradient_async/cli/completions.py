"""``gradient-async completions``: print a script that lets a shell complete the command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from .command import Command, Parser
from .display import say

Parsers: TypeAlias = Mapping[str, Parser]


def run_completions(arguments: argparse.Namespace) -> int:
    """Run the command; return 0."""
    for line in _SHELLS[arguments.shell](arguments.parsers):
        say(line)
    return 0


def _words(parser: Parser) -> str:
    """Return the possible values of the positional argument, as one text; empty if the argument is a file or any text."""
    return " ".join(
        str(word) for added in parser.added if not added.option_strings for word in added.choices or ()
    )


def _options(parser: Parser) -> Iterator[tuple[list[str], str, str]]:
    """Yield the names of each option, its description, and the kind of its value: "", "text" or "file"."""
    for added in parser.added:
        if names := list(added.option_strings):
            about = ((added.help or "") % vars(added)).partition(";")[0]
            files = {"FILE", "DIR"} & set(str(added.metavar).split("|"))
            yield names, about, "" if added.nargs == 0 else "file" if files else "text"


def _bash(parsers: Parsers) -> Iterator[str]:
    yield "_gradient_async() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words options"
    yield '  case "$COMP_CWORD:${COMP_WORDS[1]}" in'
    yield f'    1:*) words="{" ".join(parsers)}" options="--help --version" ;;'
    for command, parser in parsers.items():
        options = " ".join(name for names, _, _ in _options(parser) for name in names)
        yield f'    *:{command}) words="{_words(parser)}" options="{options}" ;;'
    yield "  esac\n  [[ $cur == -* ]] && words=$options"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$cur"))\n}'
    # With `-o default`, bash completes names of files if no word fits.
    yield "complete -o default -F _gradient_async gradient-async"


def _zsh(parsers: Parsers) -> Iterator[str]:
    commands = shlex.join(f"{command}:{parser.summary}" for command, parser in parsers.items())
    yield f"#compdef gradient-async\n_gradient_async() {{\n  local -a commands=({commands})"
    yield "  (( CURRENT == 2 )) && { _describe command commands; return }"
    yield "  local command=$words[2]\n  shift words; (( CURRENT-- ))\n  case $command in"
    for command, parser in parsers.items():
        words = _words(parser)
        specs = [f"*: :({words})" if words else "*: :_files"]
        for names, about, value in _options(parser):
            for special in "\\[]:":
                about = about.replace(special, f"\\{special}")  # noqa: PLW2901  # the same text, escaped
            ends = {"": "", "text": ": :", "file": ": :_files"}[value]
            specs += [f"*{name}[{about}]{ends}" for name in names]
        yield f"    {command}) _arguments {shlex.join(specs)} ;;"
    # zsh runs this script at each completion if it is a file in $fpath. A user may also source the script once.
    yield "  esac\n}\nif [[ $funcstack[1] == _gradient_async ]]; then"
    yield '  _gradient_async "$@"\nelse\n  compdef _gradient_async gradient-async\nfi'


def _fish(parsers: Parsers) -> Iterator[str]:
    yield "complete -c gradient-async -f"
    for command, parser in parsers.items():
        summary = shlex.quote(parser.summary)
        yield f"complete -c gradient-async -n __fish_use_subcommand -a {command} -d {summary}"
        start = f"complete -c gradient-async -n '__fish_seen_subcommand_from {command}'"
        yield f"{start} -a '{words}'" if (words := _words(parser)) else f"{start} -F"
        for names, about, value in _options(parser):
            flags = " ".join(f"-l {name[2:]}" if name[:2] == "--" else f"-s {name[1:]}" for name in names)
            takes = {"": "", "text": " -x", "file": " -r -F"}[value]
            yield f"{start} {flags}{takes} -d {shlex.quote(about)}"


_SHELLS: dict[str, Callable[[Parsers], Iterator[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(_SHELLS), help="the shell")


COMMAND = Command(
    "completions",
    help="print what completes this command line in bash, zsh or fish",
    description="Print a script that lets a shell complete this command line. Bash: put "
    '`eval "$(gradient-async completions bash)"` into ~/.bashrc. Zsh: put `source <(gradient-async completions zsh)` '
    "into ~/.zshrc, behind compinit. Fish: write the script to ~/.config/fish/completions/gradient-async.fish.",
    add_arguments=_add_arguments,
    run=run_completions,
)
