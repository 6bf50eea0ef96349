"""What do we do about it? Policies turn what classifiers saw into one decision, with its reasons.

Read in this order: `model` (what an author may write), `engine` (one pure function, `decide`), `plan` (what
the panel must read for a stage, and how much of a stream must wait), `load` (files to a PolicySet, or to a
list of problems with file, line, column and mend), `cases` (the tests written beside the rules), `check` (all
of it, for `penstock check`). Nothing here knows HTTP, streams or dialects: adding those would let two callers
disagree about one verdict.
"""
