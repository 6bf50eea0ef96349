"""What must hold for every dialect, as data: the cases of the threat model, run against Penstock on real sockets.

One YAML file a theme. A case has `id`, `send` (a request), `upstream` (what the model answers), `policy` (what
differs from the test policy) and `expect`; `dialects` and `stream` say where it applies. `cases` describes each key
and reads the files, `speak` says a request and an answer in a dialect's words, `test_conformance` runs them and
checks what holds in every case. `test_leaves` puts the word into each leaf of a whole request and answer. A new
dialect adds its words to `speak` and its name to the cases that apply to it.
"""
