"""Would Penstock serve here, with these settings? Looked at part by part, before it has to.

Each check is a function from `Place` (the settings, read) to findings: what was looked at, whether it is well, and the
mend where it is not. A new part of the world that Penstock depends on is a new function in `checks.CHECKS`. A check
writes nothing that stays, and no finding holds a key or a text of a caller.
"""
