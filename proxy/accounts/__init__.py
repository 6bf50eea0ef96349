"""Who asks, and what may they do?

An account comes from state that the proxy owns: a Penstock key (`secret` is what a caller holds, `record` what is kept
of it, `file` where, `keys` the serving process's view of it) or, where the operator chose so, whatever credential is
passed through to the provider. `identity` turns the headers of a request into one of these, `owned` knows which account
a stored response or conversation belongs to. No other header and no field of a request says who asks.

Decision: keys stand in one JSON file that is replaced whole, and every process looks each second whether it was. Why:
no server to run, several processes agree, a revocation needs no restart, and nobody ever reads half a change. Cost:
thousands of keys, not millions; a revoked key works for up to a second more.
"""
