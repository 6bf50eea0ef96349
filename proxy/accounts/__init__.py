"""Who asks, and what may they do?

An account comes from state that the proxy owns: a Penstock key (`secret` is what a caller holds, `record` what is kept
of it, `file` where, `keys` the serving process's view of it) or, where the operator chose so, whatever credential is
passed through to the provider. `identity` turns the headers of a request into one of these; what a request says of its
end user is a claim of that account (`claims`) and no more. `stored` finds the ids of what is kept at the provider,
`owned` knows whose they are, and `holder` is one account's view of them.

Decision: keys stand in one JSON file that is replaced whole, and every process looks each second whether it was. Why:
no server to run, several processes agree, a revocation needs no restart, nobody ever reads half a change, and the file
and its secret can be mounted read-only where servers have no disk in common (`keys_dir`). Cost: thousands of keys, not
millions; a revoked key works for up to a second more.
"""
