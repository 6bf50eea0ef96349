"""Several processes on one machine, one for each core: `penstock serve --workers N`.

`supervisor` is the process that an operator starts: it binds the ports, forks the workers, starts again those that die
and ends them all; `crew` is what it knows of them and answers for them on the admin listener; `worker` is the life of
one; `line` is what the two say to each other, and `figures` makes one page of all their metrics.

A worker is what a single Penstock is, audit and its writer included, without an admin listener. INVARIANT: what is
counted is never counted backwards, also where workers die; a worker that does not enforce what the others enforce
serves for five seconds at most.

Decision: workers are forked from a process that holds the weights and has asked nothing and started no thread. Why:
they share the weights and most of the code, and one that died is back in a fraction of a second. Cost: the supervisor
may never run a classifier nor a thread.

Decision: one listening socket, bound once and inherited. Why: who waits to be accepted outlives any worker, an idle
worker takes the next caller, and a second Penstock on the port is refused, not mixed in (SO_REUSEPORT gives up all
three). Cost: connections are not spread evenly.

Decision: every worker writes the audit by a process of its own, all into one file and one chain. Why: the log is made
for that, and none waits for another's death. Cost: 12 MiB a worker, and their syncs take turns.
"""
