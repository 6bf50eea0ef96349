"""The shipped encoder on Ray Serve, for Penstocks that have `encoder: http://...` set.

`batches` says which rows share a pass, `engine` makes passes in a few threads, `protocol` speaks the Open Inference
Protocol v2 over it, and `app` is the Ray Serve deployment. Texts never come here: token ids do, and logits go back.

Decision: rows share a pass where they wait together and are equally long, and nothing waits for company. Why: a row
then scores what it scores alone, bit for bit, and an idle replica answers at once. Cost: under little load nothing is
shared.
"""
