"""What every `eventcore.ports.EventStore` must do: keep each event once, answer exactly, keep honest books.

How to use it is in `eventcore.contract`. Each module holds the tests of one subject; `model` is what the property tests
compare with.
"""

from eventcore.contract.event_store.admitting import Admitting
from eventcore.contract.event_store.agreeing import Agreeing
from eventcore.contract.event_store.answering import Answering
from eventcore.contract.event_store.backend import StoreBackend
from eventcore.contract.event_store.bookkeeping import Bookkeeping
from eventcore.contract.event_store.burying import Burying
from eventcore.contract.event_store.checking import Checking
from eventcore.contract.event_store.closing import Closing
from eventcore.contract.event_store.concurrency import Concurrency
from eventcore.contract.event_store.describing import Describing
from eventcore.contract.event_store.dimensioning import Dimensioning
from eventcore.contract.event_store.folding import Folding
from eventcore.contract.event_store.keeping import Keeping
from eventcore.contract.event_store.rebuilding import Rebuilding
from eventcore.contract.event_store.replaying import Replaying

__all__ = ["EventStoreContract", "StoreBackend"]


class EventStoreContract(
    Keeping,
    Bookkeeping,
    Checking,
    Burying,
    Replaying,
    Concurrency,
    Answering,
    Folding,
    Rebuilding,
    Dimensioning,
    Admitting,
    Describing,
    Closing,
    Agreeing,
):
    """Subclass it and give it a fixture ``backend``, a `StoreBackend`."""
