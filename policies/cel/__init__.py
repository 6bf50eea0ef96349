"""Conditions as expressions in CEL. `score("guard.injection") >= 0.9 && !account.grants.exists(g, g == "red-team")`

CEL's own library parses, type-checks and evaluates (cel-expr-python, the C++ implementation). What stands between
`&&`, `||`, `!` and `? :` is read here from the checked tree (`wire`), for three things that the library cannot know:
what a stage has (`variables`), what silence of a classifier means (`condition`), and that a condition can never or
always be true (`constant`).

**A score stands only in a comparison with a number.** Why: only then is it known when a condition can be true at all,
what to make of a classifier that failed, and which finding a mask is for. Cost: no sums of scores; teach a head, or use
`after`.

**What cannot be evaluated is not false.** An error (a missing key, a wrong type in a tool's arguments) and a classifier
that failed make a part unknown; a condition that is not certainly false then does what `on_error` says. Why: whoever
can make a part fail must gain nothing. Cost: write `has(c.arguments.amount) &&` before an argument that may be missing.
"""
