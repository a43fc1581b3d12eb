"""What shells complete: tested by the shells themselves, where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gradient_async.cli import main

COMMANDS = ["chat", "completions", "demo", "map", "models", "replay", "serve"]
CASES = [
    ("", COMMANDS),
    ("m", ["map", "models"]),
    ("serve --re", ["--record", "--replay"]),
    ("map in.jsonl --pa", ["--pace"]),
    ("completions ", ["bash", "fish", "zsh"]),
]


def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Write the script of a shell to a file."""
    assert 0 == main(["completions", shell])
    path = folder / f"script.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def installed(shell: str) -> str:
    """Return the path of a shell; skip the test if there is none."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


def output_of(*command: str) -> str:
    """Run a program, which may say nothing on standard error."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "" == done.stderr
    return done.stdout


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: list[str]) -> None:
    bash = installed("bash")
    ask = f"""
        set -eu
        source {script("bash", tmp_path, capsys)}
        complete -p gradient-async > {tmp_path}/registered
        words="gradient-async {line}"
        read -ra COMP_WORDS <<< "$words"
        [[ $words == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _gradient_async
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert expected == sorted(output_of(bash, "-c", ask).split())
    assert "complete -o default -F _gradient_async gradient-async\n" == (tmp_path / "registered").read_text()


def test_bash_completes_files_where_no_word_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = f"""
        source {script("bash", tmp_path, capsys)}
        COMP_WORDS=(gradient-async map "") COMP_CWORD=2
        _gradient_async
        echo "${{#COMPREPLY[@]}}"
    """
    assert "0\n" == output_of(installed("bash"), "-c", ask)


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: list[str]) -> None:
    fish = installed("fish")
    ask = f"source {script('fish', tmp_path, capsys)}; complete -C 'gradient-async {line}'"
    assert expected == sorted(found.split("\t")[0] for found in output_of(fish, "-N", "-c", ask).splitlines())


def test_zsh_understands_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "" == output_of(installed("zsh"), "-n", str(script("zsh", tmp_path, capsys)))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_has_each_command_and_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    text = script(shell, tmp_path, capsys).read_text()
    for word in (*COMMANDS, "max-concurrency", "logprobs", "quota"):
        assert word in text
    if shell != "bash":
        assert "maximum number of tokens to generate" in text
        assert "%(default)s" not in text


def test_brackets_and_colons_are_escaped_for_zsh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert r"(default\: 0.02)]: :" in script("zsh", tmp_path, capsys).read_text()


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["completions", "tcsh"])
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
