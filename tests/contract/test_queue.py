"""Every queue keeps the contract."""

import pytest

from eventcore.contract import QueueBackend, QueueContract


class TestQueue(QueueContract):
    @pytest.fixture
    def backend(self, queue_backend: QueueBackend) -> QueueBackend:
        return queue_backend
