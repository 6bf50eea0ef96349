"""One file per API: what its bodies and streams say, and how a refusal is said in its words.

A dialect is a translation and nothing else: it reads trees into messages and events into parts, and spells refusals,
errors and endings. It does no I/O, decides nothing, and knows no other dialect.
"""
