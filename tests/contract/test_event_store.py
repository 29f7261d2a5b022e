"""Every event store keeps the contract."""

import pytest

from eventcore.contract import EventStoreContract, StoreBackend


class TestEventStore(EventStoreContract):
    @pytest.fixture
    def backend(self, store_backend: StoreBackend) -> StoreBackend:
        return store_backend
