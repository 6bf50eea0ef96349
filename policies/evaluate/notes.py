"""What the report says beside its figures. HTML, written by us: nothing from data or authors goes in here."""

from __future__ import annotations

SUMMARY = """
By where in an exchange the text stands. A policy's score is named by the action that it leads to: its curve moves all
thresholds of that action's rules together, and <em>caught</em> and <em>honest flagged</em> are what happens at the
thresholds as they are written. <em>At most</em> is the exact one-sided 95 % upper bound. Other brackets are 95 %
intervals: Wilson for shares, Clopper-Pearson for recall at a share of false alarms, bootstrap over families for
AUROC. Texts of one family count as one in all of them. Actions on one line came to the same on every text. Recall in
grey italics: there are too few honest texts for that share, so it allows no false alarm at all. Precision is what it
would be where one text in a thousand is bad."""

ROC = """
The left part is where a policy can live. Points: what the policy does, with intervals of both rates. Dotted uprights:
0.1, 0.5 and 1 % of honest texts. Between two thresholds there is nothing to be had, so curves are stairs."""

TRADEOFF = """
Thin lines: each source of bad texts against all honest ones (point at a line for its name). A pooled curve hides how
far apart they lie."""

CATEGORIES = """
Filled: the strictest action, hollow: the mildest (for a classifier: at 1 % false alarms). Wilson 95 %. Right: how
many texts. Small categories are counted only in their label."""

OVER_REFUSAL = """
Filled: the strictest action, hollow: the mildest. The whisker ends at the exact 95 % upper bound. Right: how many
texts."""

GROUPS = """
Many sources hold one side only: AUPRC, F1 and recall set the bad texts of a line against the honest texts of all
lines in the same place of the exchange; the first AUROC is against the line's own honest texts."""

CALIBRATION = """
Each finding against bad texts of the same name and all honest texts of the place. ECE: expected calibration error
over ten bins, bad and honest texts given equal weight (a score is a probability only for one mix), and as the rows
are. Below: findings first, then the sources that hold both sides; on the diagonal, what scores .8 is bad eight times
of ten."""

READING = """
A figure holds for the texts it was measured on. Look first at the worst source and the worst language, then at the
honest texts that were stopped, and only then at the pooled numbers. Where one request in a thousand is bad, a
detector that catches 80 % at 1 % false alarms is wrong thirteen times of fourteen: what blocks should flag at most
0.1 % of honest texts, what only notes may flag 1 to 2 %. No false alarm in 299, 598 or 2,995 honest texts bounds the
rate at 1, 0.5 or 0.1 %. Labels are wrong here and there: read the texts at both ends before you believe a figure."""
