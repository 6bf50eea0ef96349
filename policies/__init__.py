"""What do we do about it? Policies turn what classifiers saw into one decision, with its reasons.

Read in this order: `model` (what an author may write; `forms` has the values with a form of their own), `decision`
(what comes out), `facts` (what is known of a request), `engine` (one pure function, `decide`, over what `ready`
arranged; `cel` has conditions as expressions), `plan` (what the panel must read for a stage, and how much of a stream
must wait), `load` (files to a PolicySet, or to every problem with file, line, column and mend; `document` and `mends`
do the reading, `variants` says what is inherited, `floors` what may not be loosened), `cases` (the tests written
beside the rules), `lint` (what is allowed and looks like a mistake), `check` (all of it, for `penstock check`).
What is masked has a number by `tokens`, and a place by `in_json` where the text is JSON.
Beside them, tools for authors that decide nothing: `explain`, `diff`, `backtest` (what recorded scores would have led
to; `heard` says what they can tell, `changes` counts) and `scaffold`. Nothing here knows HTTP, streams or dialects:
adding those would let two callers disagree about one verdict.
"""
