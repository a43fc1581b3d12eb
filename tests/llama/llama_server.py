"""Run llama.cpp's own HTTP server: ``llama_server.py MODEL.gguf PORT [KEY]``. Ends when its input does."""

from __future__ import annotations

import importlib
import sys
from typing import Any

SLOTS = 4
CONTEXT = 2048  # tokens a slot


def main(model: str, port: int, key: str | None) -> None:
    """Serve a model on loopback until standard input is closed, which the end of the tests does."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no types
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"tiny-chat"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT * SLOTS
    params.n_threads_http = 8
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers = 0
    params.cache_ram_mib = 0
    params.use_jinja = True
    if key is not None:
        params.api_keys = [key]
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)  # noqa: T201  # what the tests wait for
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
