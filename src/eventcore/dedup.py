"""When two events are the same: fingerprints, equal content, and repeats inside a batch.

Within a project the id decides which event it is; content decides whether a repeat is a duplicate or a conflict. Not
here: the ledger, which is the arbiter across batches and belongs to the stores.
"""

from collections.abc import Sequence
from hashlib import blake2b

from eventcore.events import Event
from eventcore.strict_json import equal, read_element

FINGERPRINT_BYTES = 16


def fingerprint(user_id: str, event_type: str, occurred_us: int, properties: str) -> bytes:
    """A 128-bit BLAKE2b digest (RFC 7693) of an event's content, the properties as received.

    Equal fingerprints mean equal content; different ones may still be equal by value, see `same_content`. The first
    two fields cannot hold NUL, which makes the joined text unambiguous.
    """
    content = f"{user_id}\0{event_type}\0{occurred_us}\0{properties}"
    return blake2b(content.encode(), digest_size=FINGERPRINT_BYTES).digest()


def same_content(one: Event, other: Event) -> bool:
    """Whether two events of one id have equal values: user, type, instant, and properties as JSON."""
    if one.fingerprint == other.fingerprint:
        return True
    return (
        one.user_id == other.user_id
        and one.event_type == other.event_type
        and one.occurred_us == other.occurred_us
        and equal(read_element(one.properties.encode()), read_element(other.properties.encode()))
    )


def member(event: Event) -> bytes:
    """What a `DedupCache` remembers of an event: id and content, so changed content is never taken for seen."""
    return event.event_id + event.fingerprint


def namespace(epoch: str, project: str) -> str:
    """Where a `DedupCache` remembers it: a new epoch of the store forgets everything."""
    return f"{epoch}:{project}"


def collapse(events: Sequence[Event]) -> tuple[list[int], list[int], list[int]]:
    """Sort the events of a batch into the first of each id, equal repeats, and repeats with other content.

    Returns:
        Positions of the first ones, of the duplicates, and of the conflicts, each ascending.
    """
    first_of: dict[bytes, int] = {}
    firsts: list[int] = []
    duplicates: list[int] = []
    conflicts: list[int] = []
    for position, event in enumerate(events):
        first = first_of.setdefault(event.event_id, position)
        if first == position:
            firsts.append(position)
        elif same_content(events[first], event):
            duplicates.append(position)
        else:
            conflicts.append(position)
    return firsts, duplicates, conflicts
