"""The contract of the ports, executable: import it to test an adapter of your own.

One class of tests for each port: `EventStoreContract`, `DedupCacheContract`, `QueueContract`, and for a queue that
answers first, together with its other end, `ConsumerContract`. Subclass the one you need and give it a fixture
``backend`` that says how to open your adapter and what it can do; pytest then runs every test of the contract against
it:

    import pytest
    from eventcore.contract import EventStoreContract, StoreBackend
    from my_package import open_store

    class TestMyStore(EventStoreContract):
        @pytest.fixture
        def backend(self, tmp_path):
            return StoreBackend(
                name="mine",
                open=lambda place: open_store(f"mine://{tmp_path}/{place}"),
                durable=True,
            )

A *place* is where a store keeps its data. The same name means the same place as long as the test runs; every place
is empty when the test begins, which is the fixture's work. What a backend says it cannot do is skipped, visibly;
everything else must hold. The shipped adapters pass these same classes, unchanged.

Needs the extra ``testing`` (pytest, pytest-asyncio, hypothesis); works in both modes of pytest-asyncio. Nothing else in
eventcore imports this package. Not here: speed, real crashes and broken servers, which no port can bring about.
"""

import pytest

# Before the modules are imported, so that a failing assertion of theirs shows both sides.
pytest.register_assert_rewrite(
    "eventcore.contract.event_store",
    "eventcore.contract.dedup_cache",
    "eventcore.contract.queue",
    "eventcore.contract.consumer",
)

from eventcore.contract.consumer import ConsumerBackend, ConsumerContract  # noqa: E402
from eventcore.contract.dedup_cache import CacheBackend, DedupCacheContract  # noqa: E402
from eventcore.contract.event_store import EventStoreContract, StoreBackend  # noqa: E402
from eventcore.contract.queue import QueueBackend, QueueContract  # noqa: E402

__all__ = [
    "CacheBackend",
    "ConsumerBackend",
    "ConsumerContract",
    "DedupCacheContract",
    "EventStoreContract",
    "QueueBackend",
    "QueueContract",
    "StoreBackend",
]
