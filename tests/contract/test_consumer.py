"""Every queue that answers first keeps the contract of its other end."""

import pytest

from eventcore.contract import ConsumerBackend, ConsumerContract


class TestConsumer(ConsumerContract):
    @pytest.fixture
    def backend(self, consumer_backend: ConsumerBackend) -> ConsumerBackend:
        return consumer_backend
