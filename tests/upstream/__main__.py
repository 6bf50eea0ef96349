"""`python -m tests.upstream --port P`: the simulator as a process, for benchmarks and for trying things by
hand."""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop

from tests.upstream.server import Upstream


async def serve(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; prints the address once it accepts."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Upstream(host=host, port=port, keep=False) as upstream:
        print(f"simulated upstream on {upstream.url}", flush=True)
        await stop.wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
