"""Any bytes at all: `targets` say what must hold of them, `mutate` makes more of them out of a seeded corpus.

The suite runs every target on the corpus and on a fixed number of mutations; `make fuzz` runs them for as long as one
likes, with atheris where it is installed. A finding goes into corpus/TARGET/ and is run by the suite from then on.
"""
