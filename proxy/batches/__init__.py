"""Requests by the hundred: uploads judged row by row before they leave, results judged row by row before they arrive.

`routes` says which request is what, `form` reads an upload's multipart body, `rows` reads one row of either way, and
`upload`, `results` and `records` are the exchanges: of a file or list of requests, of what became of them, and of the
objects around them (files, batches), whose every leaf is judged. All of it exists only with `judge_batches: true`.

Decision: an upload is forwarded as it came or refused whole; a row that a policy would mask refuses it as well. Why:
what was judged is what the provider reads, byte for byte, and nobody gets half a batch. Cost: whoever sends has to
mend the row that the refusal names.

Decision: a result that may not be released is replaced by an error of the API's own kind, the other rows stay. Why:
the batch was paid for. Cost: the length of the file is no longer the provider's.
"""
