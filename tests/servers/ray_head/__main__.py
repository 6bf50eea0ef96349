"""`python ray_head FOLDER CONFIG`: a small Ray on this machine, and a Serve config run on it by Serve's own command.

In a process of its own, which has Ray on its path. It ends with its parent, and everything that it started with it.
"""

from __future__ import annotations

import sys

import ray
from ray.serve.scripts import cli


def main(folder: str, config: str) -> None:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80_000_000,
        log_to_driver=False,
        namespace="serve",
        _temp_dir=folder,
    )
    cli(["run", config])


if __name__ == "__main__":
    main(*sys.argv[1:])
