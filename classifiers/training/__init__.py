"""How the shipped weights were made: `python -m classifiers.training --data DIR --out DIR`.

labels (the heads and what a kind of text says about each) -> corpus (rows -> examples, licences, caps) -> augment
(pasted injections, disguises) -> fit (one encoder, many masked heads) -> export (ONNX, static int8) -> calibrate
(after quantisation, on sources that were not trained on) -> measure -> card. `sources.yaml` is the table of sources
and `data/` holds the texts that we wrote ourselves; `compare` says what a model wins and loses against another. Only
`encoder`, `fit` and `export` need torch, and they ask for it late.
"""
