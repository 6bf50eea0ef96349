"""Kept content: what was judged, for those who asked to keep it, readable by whoever has the master key and by nobody
once its subject is forgotten.

`texts` gathers what was judged of one exchange, `seal` is the arithmetic of the envelope, `store` says what a database
must do, `sqlite` is the one in files and `postgres` the one that replicas share, `vault` puts the three together
(write, read, forget), `keeping` is the proxy's face: a bounded queue and the thread that writes.

Decision: the audit holds no content, and content is in files of its own. Why: the chain must verify when a subject is
forgotten or its texts have expired, and a database with texts wants another backup and other readers than one without.
Cost: two databases that agree by the decision's id alone.

Decision: a key for each subject (the account, and each end user that it claims) and day, wrapped by the master key; a
row is sealed under all keys of its subjects together. Why: destroying one is enough, whichever of them asks, and keys
that are older than the retention are destroyed too, so that old backups expire like the rows. Cost: a few hundred bytes
for each subject and day, in a file of its own: a backup that holds it and the content can be read with the master key.

Decision: content is best effort, the audit is not. Why: no exchange shall wait for it or fail by it. Cost: what the
queue does not take, or is lost with the process, was never kept; `penstock_content_lost_total` counts the former.
"""
