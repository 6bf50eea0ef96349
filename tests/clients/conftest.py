"""The test policy's classifiers, as in tests/proxy."""

from tests.proxy.conftest import _canary

__all__ = ["_canary"]
