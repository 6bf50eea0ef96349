"""How well does a policy, or one classifier, tell bad texts from honest ones? Figures with intervals, from labelled
rows.

Read in this order: `labels` (which labels are bad, which honest), `dataset` (JSON lines to rows, or every problem with
file and line), `subject` (what is measured: a policy's decisions, a classifier's scores), `runner` (every row through
the panel, once), `shares` (shares, bounds and thresholds), `figures` (outcomes to numbers, pure), `report` and `plots`
(numbers to one page), `files` (a run's folder), `compare` (two runs on the same rows). The statistics are
`classifiers.statistics`, so that training, teaching and evaluation count alike. Nothing here decides:
`policies.engine` does.
"""
