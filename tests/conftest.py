"""What all tests share: property tests are not timed one by one, for a busy machine would fail them."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")
