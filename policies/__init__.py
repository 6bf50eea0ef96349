"""What do we do about it? Policies turn what classifiers saw into one decision, with its reasons.

Read in this order: `model` (what an author may write), `decision` (what comes out), `engine` (one pure function,
`decide`, over what `ready` arranged), `plan` (what the panel must read for a stage, and how much of a stream must
wait), `load` (files to a PolicySet, or to every problem with file, line, column and mend; `document` and `mends` do
the reading), `cases` (the tests written beside the rules), `check` (all of it, for `penstock check`). Nothing here
knows HTTP, streams or dialects: adding those would let two callers disagree about one verdict.
"""
