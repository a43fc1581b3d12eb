"""The journals of all workers of a job: one file for each worker, in one folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from ..errors import GradientError, JournalError
from ..fanout import Journal
from ..fanout.result_file import ResultFile, Row
from ..types import ChatCompletion


class _FinishedFile(ResultFile):
    """A file of another worker. An error in the file counts as a result only if the file belongs to this job.

    Args:
        path: The file.
        current: Whether the file belongs to this job.
    """

    def __init__(self, path: Path, *, current: bool) -> None:
        super().__init__(path, os.open(path, os.O_RDONLY), retry_errors=True)
        self._current = current

    def _is_final(self, error: Any) -> bool:
        return error is None or self._current

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class FolderJournal(Journal):
    """A worker's own journal, in a folder with the journals of all workers of this job and of earlier jobs.

    Equal rows without a key have one result.

    Args:
        folder: The folder. It is created if it does not exist.
        job: Name of this job.
    """

    def __init__(self, folder: Path, job: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._job = job
        self._others: dict[str, _FinishedFile] = {}
        super().__init__(folder / f"{job}-{secrets.token_hex(8)}.jsonl")

    def _is_final(self, error: Any) -> bool:  # noqa: ARG002  # of whatever kind
        return True  # if Ray repeats a row, the row must get the same result

    def read_others(self) -> None:
        """Read what other workers have written since the last time.

        Raises:
            JournalError: If a file holds anything but results, or can't be read.
        """
        failure: JournalError
        try:
            for path in sorted(self.path.parent.glob("*.jsonl")):
                if path != self.path and path.name not in self._others:
                    current = path.name.startswith(f"{self._job}-")
                    self._others[path.name] = _FinishedFile(path, current=current)
        except OSError as error:
            failure = self._failure(error)
        else:
            for other in self._others.values():
                other.read_on()
            return
        raise failure

    def take(self, row: Row, nth: int = 0) -> ChatCompletion | GradientError | None:  # noqa: ARG002  # see the class
        """Return the result of a row; None if its request has to be made."""
        answer = super().take(row)
        for other in self._others.values():
            answer = answer or other.take(row)
        return answer
