"""Every dedup cache keeps the contract."""

import pytest

from eventcore.contract import CacheBackend, DedupCacheContract


class TestDedupCache(DedupCacheContract):
    @pytest.fixture
    def backend(self, cache_backend: CacheBackend) -> CacheBackend:
        return cache_backend
