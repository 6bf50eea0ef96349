"""Do it to live traffic, and write down what was done.

The highest of three floors (proxy -> policies -> classifiers). One request is followed with six files open: `app`
(the data plane's closed surface; `heads` says why a head is refused), `exchange` (the way of one exchange; `stream`
where the answer is one, `telling` writes its records), `dialects/` (one file per API: what a body says, and how a
refusal is said in its words), `guard` (asks the classifiers, then the policy), `gate` (holds a stream until it is
judged) and `upstream` (the only place that talks to the model). `strict` and `sse` read bytes without a second meaning;
`accounts` says who asks, `routing` where it goes, `relay` passes what is not judged, `keeper` holds the policy that is
in force and `policy_store` those that were; `audit`, `metrics` and the logs see every decision and change none.
`workers` makes one Penstock of several processes.

Decision: the data path is our own HTTP/1.1 on both sides (`listener`, `upstream`), no ASGI server and no framework.
Why: measured on one core, FastAPI + httpx cost 15 to 30 times what a guarded exchange costs here, and an ASGI server
as much as all judging. Cost: some 800 lines of connection handling that are ours to keep right.
"""
