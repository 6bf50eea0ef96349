"""What do replicas have to know in common, and what holds when they cannot ask each other?

Three things: the flags of accounts, their strikes, and what slow classifiers found in texts before (`verdicts`). `base`
has the words and the contract of a store; `local` keeps it, an SQLite file in the data directory that the processes of
one machine share; `redis_store` keeps it for many machines, over one connection (`line`) that knows when it is of no
use. `shared` is what a serving process sees of both.

Decision: the local file is always there, and Redis comes beside it. Why: what is struck or flagged is written here
first and sent on from here, so that a cut loses nothing over any restart, and known bans stand without anybody to ask.
Cost: each machine has a copy of all flags, and of the strikes that fell there.

Decision: flags are copied to every process once a second; counts are asked for by each exchange whose policy reads
them. Why: a ban must hold whatever is away, and a count must be exact. Cost: one round trip, bounded by
`state_timeout`; after one that was too late nobody waits until Redis has answered in time again.

Decision: a strike is kept for a year, the newest 10,000 of a name, whatever time its rule counts over. Why: another
policy may count the same name over longer, or begin to; trimmed to its own time a narrow one erased the history of a
wide one. Cost: some hundred bytes each, here and in Redis, and `penstock account show` tells those that count no more.

Decision: while Redis is away a count is the last one that was heard, or this machine's own, whichever is higher, and
new strikes on top. Why: nothing resets, and no outage refuses honest accounts. Cost: what falls on other machines
meanwhile counts when it is back. A strike is known by its decision's id: sent twice it counts once; so a Redis that
comes back empty is told everything again, by each machine what it knows.

Decision: no rule shortens a flag, whichever process, machine or order it comes in; a person's word replaces what was
there before it. Stores decide that as they write, in SQL and in a script of Redis. Why: a ban of thirty days had become
one of a minute where two workers flagged in one second. Cost: our user of Redis must be let to EVAL; where clocks of
machines differ, so does what was there before.

Decision: a primary that Sentinels made out of a replica is told everything again as well. Why: what the one before had
acknowledged last may not have reached it. Cost: a flag that was lifted in the very second before may stand again.

Decision: what is to be told anew is looked at in slices, in a thread, and told for a second at a time between looks at
flags. Why: a year of strikes in one go stood still for everybody. Cost: where it is cut short it begins again, and some
is told twice.
"""
