"""The stage of Ray Data: `Complete`, which each worker has, and `complete`, which adds it to a dataset."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import secrets
import warnings
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import msgspec

from ..client import AsyncGradient
from ..client.client import core_of
from ..client.settings import check_choice, check_count
from ..errors import APIError, ConfigurationError, InvalidRequestError
from ..fanout import MapResult
from ..session.pace import Pace
from .journal import FolderJournal
from .pace import SharedPace, ray

D = TypeVar("D")
MakeRequest: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]

_COLUMNS: dict[str, str] = {
    "text": "string",
    "finish_reason": "string",
    "model": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "attempts": "int32",
    "resumed": "bool_",
    "error_type": "string",
    "error": "string",
    "status_code": "int32",
    "request_id": "string",
}
_BODY = {"body": "string"}


# Seconds for which a worker that ends waits until its connections are closed.
_CLOSE_SECONDS = 5.0


class WorkerMap:
    """The only `map` of a worker, for the rows of all batches. So no request waits for the slowest request of another batch.

    This object does not refer to its `Complete`, because dropping the `Complete` closes this object.

    Args:
        client: The client, which this object closes.
        options: Options of `map`, and parameters for requests that do not give them.
        journal: The worker's journal, which this object closes, or None.
    """

    def __init__(
        self, client: AsyncGradient, options: Mapping[str, Any], journal: FolderJournal | None
    ) -> None:
        self._client = client
        self._options = options
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue[tuple[Any, Mapping[str, Any]]]()
        self._count = 0
        self._results: dict[int, asyncio.Future[MapResult]] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def send(self, requests: Iterable[tuple[Any, Mapping[str, Any]]]) -> list[MapResult]:
        """Send requests, each with its key or None; return their results in order.

        Raises:
            JournalError: If a result can't be written. Later calls raise the same error.
        """
        if self._journal is not None:
            self._journal.read_others()
        futures: list[asyncio.Future[MapResult]] = []
        for request in requests:
            future = self._loop.create_future()
            futures.append(future)
            self._results[self._count] = future
            self._count += 1
            self._queue.put_nowait(request)
        results = asyncio.gather(*futures)
        await asyncio.wait((results, self._reader), return_when=asyncio.FIRST_COMPLETED)
        if not results.done():
            results.cancel()
            self._reader.result()  # raises the error that ended the reader
        return await results

    async def _read(self) -> None:
        """Send the requests of the queue, and give each result to the call that waits for it."""
        with self._journal or contextlib.nullcontext():
            results = self._client.chat.completions.map(
                self._queued(), journal=self._journal, **self._options
            )
            async with self._client, results:
                async for result in results:
                    future = self._results.pop(result.index)
                    if not future.done():  # done if Ray has cancelled the batch
                        future.set_result(result)

    async def _queued(self) -> AsyncGenerator[tuple[Any, Mapping[str, Any]], None]:
        while True:
            yield await self._queue.get()

    def close(self) -> None:
        """Cancel all requests, and close connections and journal. If called in another thread, wait until this is done."""
        if not self._loop.is_running():
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._reader.cancel()
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_CLOSE_SECONDS)

    async def _end(self) -> None:
        self._reader.cancel()
        await asyncio.wait((self._reader,))


class Complete:
    """The stage itself, for ``dataset.map_batches(Complete, batch_format="pyarrow", fn_constructor_kwargs={...})``.

    `complete` makes this call. Each worker has one `Complete`, with one client and one `map` for all of its rows.

    Args:
        request: Name of the column with the request's messages, or with the text of one message of the user; or a function
            from a row, as a dict, to parameters of ``create``.
        client: Options of an `AsyncGradient` as a dict, or a client, which is sent to workers as its settings.
        pace: Rates of the requests: a `SharedPace` for all workers together, or a `Pace` for each worker.
        journal: A folder that all workers can reach, or None. Results are written to files in it, and requests whose results
            are in it are not made again.
        key: Name of a column that distinguishes rows with equal requests in the journal. Without it, such rows share a result
            once the journal has one.
        max_concurrency: Maximum number of requests that a worker has in flight.
        on_error: ``"collect"`` returns an error as a row; ``"raise"`` ends the job at the first error.
        prefix: Beginning of the names of all columns that are added.
        body: Whether to add the column ``body``, the reply as JSON.
        job: Name of this job among the files of the journal. Workers of one job have the same.
        **defaults: Parameters for rows that do not give them.

    Raises:
        ConfigurationError: If an option can't be used, or there is no key.
        TypeError: If an option or a default is unknown or has the wrong type.
    """

    def __init__(
        self,
        *,
        request: str | MakeRequest,
        client: AsyncGradient | Mapping[str, Any] | None = None,
        pace: Pace | None = None,
        journal: str | os.PathLike[str] | None = None,
        key: str | None = None,
        max_concurrency: int = 64,
        on_error: Literal["collect", "raise"] = "collect",
        prefix: str = "",
        body: bool = False,
        job: str = "",
        **defaults: Any,
    ) -> None:
        if not (isinstance(request, str) or callable(request)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"request: expected the name of a column or a function, not {type(request).__name__}"
            )
        for name, value in (("key", key), ("prefix", prefix)):
            if not isinstance(value, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller's mistake
                raise TypeError(f"{name}: expected a str, not {type(value).__name__}")
        check_choice("on_error", on_error, "collect", "raise")
        if journal is not None:
            journal = Path(journal)
            if journal.exists() and not journal.is_dir():
                raise ConfigurationError(f"journal={str(journal)!r} is not a folder")
        # The client is copied, because dropping this object closes its client.
        self._client = deepcopy(client) if isinstance(client, AsyncGradient) else _make_client(client)
        _check_key(self._client, defaults)
        self._options: dict[str, Any] = {"max_concurrency": max_concurrency, "pace": pace, **defaults}
        self._client.chat.completions.map((), **self._options)  # checks the options
        self._request = request
        self._folder, self._job = journal, job or secrets.token_hex(8)
        self._key = key
        self._raise_errors = on_error == "raise"
        self._prefix = prefix
        self._columns = _COLUMNS | _BODY if body else _COLUMNS
        self._map: WorkerMap | None = None

    async def __call__(self, table: Any) -> Any:
        """Return a table with the columns of the replies, and the rows in the same order.

        Each table gives exactly one table: when Ray repeats the work of a worker that died, it counts the tables that it has.
        """
        self.check_columns(table.column_names)
        if self._map is None:
            journal = None if self._folder is None else FolderJournal(self._folder, self._job)
            self._map = WorkerMap(self._client, self._options, journal)
        rows = list(self._requests(table))
        requests = [(key, params) for key, params in rows if not isinstance(params, Exception)]
        results = iter(await self._map.send(requests))
        return self._add(
            table,
            [self._row(params if isinstance(params, Exception) else next(results)) for _, params in rows],
        )

    def __del__(self) -> None:
        worker_map: WorkerMap | None = getattr(self, "_map", None)
        if worker_map is not None:
            worker_map.close()

    def check_columns(self, names: Iterable[str]) -> None:
        """Check the names of the dataset's columns.

        Raises:
            ConfigurationError: If a column is missing, or has the name of an added column. The error is also a ValueError.
        """
        present = set(names)
        for option, name in (("request", self._request), ("key", self._key)):
            if isinstance(name, str) and name not in present:
                raise ConfigurationError(f"{option}={name!r}: the dataset has no such column")
        for name in self._columns:
            if self._prefix + name in present:
                raise ConfigurationError(
                    f"the dataset has a column {self._prefix + name!r} already: pass prefix=..., such as 'llm_'"
                )

    # Requests

    def _requests(self, table: Any) -> Iterable[tuple[Any, Mapping[str, Any] | Exception]]:
        """Yield the key and the parameters of each row, or the error of a row that is not a request."""
        keys = [None] * table.num_rows if self._key is None else table.column(self._key).to_pylist()
        rows = table.to_pylist() if callable(self._request) else table.column(self._request).to_pylist()
        for key, row in zip(keys, rows, strict=True):
            try:
                yield key, self._params(row)
            except Exception as error:  # noqa: BLE001  # the caller's function may raise anything
                yield key, error.with_traceback(None)

    def _params(self, row: Any) -> Mapping[str, Any]:
        if not callable(self._request):
            if isinstance(row, str):
                return {"messages": [{"role": "user", "content": row}]}
            if isinstance(row, list):
                return {"messages": _clean(cast("list[Any]", row))}
            raise InvalidRequestError(
                f"the row has {type(row).__name__} in {self._request!r}: expected text or a list of messages"
            )
        params = self._request(row)
        if not isinstance(params, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # the caller's function
            raise InvalidRequestError(
                f"request= returned {type(params).__name__}: expected the parameters of the request as a dict"
            )
        if isinstance(params.get("messages"), list):
            return {**params, "messages": _clean(params["messages"])}
        return params

    # Results

    def _row(self, result: MapResult | Exception) -> dict[str, Any]:
        """Return the columns of a result.

        Raises:
            Exception: The error of the row, with ``on_error="raise"``.
        """
        error = result if isinstance(result, Exception) else result.error
        resumed = not isinstance(result, Exception) and result.resumed
        if error is not None:
            if self._raise_errors:
                raise error
            row = {"error_type": type(error).__name__, "error": _encodable(str(error)), "attempts": 0}
            if isinstance(error, APIError):
                row |= {
                    "attempts": error.attempts,
                    "status_code": error.status_code,
                    "request_id": error.request_id and str(error.request_id),
                }
            return row | {"resumed": resumed}
        completion = cast("MapResult", result).unwrap()
        choice = completion.choices[0]
        usage = completion.usage
        return {
            "text": choice.message.content,
            "finish_reason": choice.finish_reason,
            "model": completion.model,
            "prompt_tokens": usage and usage.prompt_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "attempts": completion.attempts,
            "resumed": resumed,
            "request_id": completion.request_id,
            "body": msgspec.json.encode(completion.body).decode() if "body" in self._columns else None,
        }

    def _add(self, table: Any, rows: list[dict[str, Any]]) -> Any:
        arrow: Any = importlib.import_module("pyarrow")
        for name, kind in self._columns.items():
            values = arrow.array([row.get(name) for row in rows], type=getattr(arrow, kind)())
            table = table.append_column(self._prefix + name, values)
        return table


def complete(
    dataset: D,
    *,
    request: str | MakeRequest,
    client: AsyncGradient | Mapping[str, Any] | None = None,
    pace: Pace | None = None,
    workers: int = 1,
    batch_size: int = 256,
    num_cpus: float = 0.25,
    max_restarts: int = 3,
    max_task_retries: int = -1,
    **stage: Any,
) -> D:
    """Add a stage to a dataset: chat completions, one for each row.

    Every row of the dataset stays, with its columns unchanged, and gets the columns ``text``, ``finish_reason``, ``model``,
    ``prompt_tokens``, ``completion_tokens``, ``attempts``, ``resumed``, ``error_type``, ``error``, ``status_code`` and
    ``request_id``. A request that fails gives a row too: ``error_type`` is the class of the error, and ``text`` is null.

    The dataset is lazy. Each consumption, also by ``schema()``, ``count()`` or ``take()``, runs the stage again and pays for it
    again: write the dataset, call ``materialize()`` once, or use a journal.

    Args:
        dataset: A `ray.data.Dataset`.
        request: Name of the column with the request's messages, or with the text of one message of the user; or a function
            from a row, as a dict, to parameters of ``create``.
        client: Options of an `AsyncGradient` as a dict, or a client.
        pace: Rates of the requests: a `SharedPace` for all workers together, or a `Pace` for each worker.
        workers: Number of workers. One holds a thousand requests at a time; take more when it uses a whole core.
        batch_size: Number of rows that a worker takes at once.
        num_cpus: CPUs that Ray reserves for a worker. On a small machine those of all workers must leave a CPU free, because
            the tasks that read the data need one.
        max_restarts: How often a worker that died is started again; bounds a row that kills its workers.
        max_task_retries: How often the rows of a worker that died are done again; -1 for as often as it is restarted.
        **stage: Other options of `Complete`: ``journal``, ``key``, ``max_concurrency``, ``on_error``, ``prefix``, ``body``;
            and parameters for rows that do not give them, such as ``model``.

    Returns:
        The dataset with the new columns.

    Raises:
        ConfigurationError: If an option can't be used, there is no key, or a column is missing or has the name of one that
            is added. Columns that are known only once the dataset runs are checked by the first worker.
        TypeError: If an option or a parameter is unknown, has the wrong type, or can't be sent to workers.
    """
    check_count("workers", workers, min_=1)
    check_count("batch_size", batch_size, min_=1)
    if not isinstance(client, AsyncGradient):
        client = _make_client(client)  # made here, because workers may have another environment
    if stage.get("journal") is not None:
        stage["journal"] = Path(stage["journal"]).absolute()  # workers have other working directories
    stage = {"job": secrets.token_hex(8), **stage, "request": request, "client": client, "pace": pace}
    checked = Complete(**stage)
    source: Any = dataset
    schema = source.schema(fetch_if_missing=False)
    if schema is not None:
        checked.check_columns(schema.names)
    ray.cloudpickle.dumps(stage)
    shared = pace or client.pace
    if isinstance(shared, SharedPace):
        shared.open()  # opened here, so that the actor does not end with a worker
    with warnings.catch_warnings():
        # Ray announces that these two options will have other names, and does not say which.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return cast(
            "D",
            source.map_batches(
                Complete,
                fn_constructor_kwargs=stage,
                batch_size=batch_size,
                batch_format="pyarrow",
                num_cpus=num_cpus,
                compute=importlib.import_module("ray.data").ActorPoolStrategy(size=workers),
                udf_modifying_row_count=False,
                # This is the concurrency of the actor: it gets its next batch while it waits for the last replies of this one.
                # `Complete` limits the requests of both batches together.
                max_concurrency=2,
                max_restarts=max_restarts,
                max_task_retries=max_task_retries,
            ),
        )


def _make_client(options: Mapping[str, Any] | None) -> AsyncGradient:
    if not isinstance(options, Mapping | None):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller's mistake
        raise TypeError(
            f"client: expected an AsyncGradient or its options as a dict, not {type(options).__name__}"
        )
    return AsyncGradient(**(options or {}))


def _check_key(client: AsyncGradient, defaults: Mapping[str, Any]) -> None:
    """Raise the ConfigurationError that a call would raise, as for a missing key."""
    core_of(client).template("chat", defaults, stream=False)


def _clean(messages: list[Any]) -> list[Any]:
    """Remove fields that are None from messages: Arrow gives all messages the fields that any of them has.

    The content of a message may be None beside tool calls, and stays.
    """
    cleaned = cast("list[Any]", _without_nulls(messages))
    for message, given in zip(cleaned, messages, strict=True):
        if isinstance(given, dict) and "content" in given:
            message.setdefault("content", None)
    return cleaned


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _without_nulls(each) for name, each in fields.items() if each is not None}
    return value


def _encodable(text: str) -> str:
    """Replace half surrogate pairs, which Arrow refuses."""
    return text.encode("utf-8", "replace").decode()
