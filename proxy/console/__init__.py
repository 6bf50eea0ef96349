"""Pages for people: which decisions were made, why each fell as it did, and what waits for a person's word.

`site` is the application, `guard` who may see it and from where, `templates/` what it says. It runs as a process of its
own (`penstock console`), reads the audit and asks the admin listener: the data plane neither knows it nor waits for it.

Decision: pages are made here, whole, without a line of script. Why: what stands on them was written by callers and
models, so the browser is told to run nothing at all. Cost: a page is as old as its last load.
"""
