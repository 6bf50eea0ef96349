"""Requests by the hundred: uploads judged row by row before they leave, results judged row by row before they arrive.

`table` says which request is what, `routes` how it is served, `form` reads an upload's multipart body, `rows` reads one
row of either way, and `upload`, `results` and `records` are the exchanges: of a file or list of requests, of what
became of them, and of the objects around them (files, batches), whose every leaf is judged. All of it exists only with
`judge_batches: true`.

Decision: an upload is forwarded whole or refused whole; a row that a rule masks or adds a note to goes as the rule made
it, all others byte for byte. Why: nobody gets half a batch, nor another one than was judged. Cost: whoever sends has to
mend a row that is refused, held for a person or sent to another model; where a rule changed something the file at the
provider has another length.

Decision: a result that may not be released is replaced by an error of the API's own kind, the other rows stay. Why:
the batch was paid for. Cost: the length of the file is no longer the provider's.
"""
