"""How fast, against whom: Penstock and nginx in front of the same simulated upstream, measured in the same run.

`python -m tests.bench` prints the table (`--quick` in under a minute, `--json FILE` for machines). The parts:

- `candidates` starts the simulator, nginx and Penstock with guards off, patterns on and everything on, and first
  makes sure that each really passes honest traffic and that guards really guard;
- `scenarios` is the list of what is measured; `load` runs one scenario against one candidate: requests by wrk
  (`requests.lua`: no two prompts are equal), streams by `streams`, a client of our own in its own process;
- `usage` reads CPU and memory of a process tree from /proc, `report` turns samples into a table of medians.

Rounds are interleaved, so that what else happens on the machine meets all candidates alike. CPU per request and
ratios to nginx are what to trust: milliseconds move with the load of the machine.
"""
