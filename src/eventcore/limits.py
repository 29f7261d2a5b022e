"""The limits of what is accepted, in one value, each with the reason for its size.

Not here: limits of a server (time, connections), which the entrypoints keep.
"""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on a batch and on each of its events.

    Attributes:
        batch_events: events in one batch. 2,000 small events fill one group commit without holding others up.
        body_bytes: bytes of one body, decompressed. 10 MiB is 2,000 events of 5 KiB.
        event_bytes: bytes of one event as received; also the most that one queue message must hold.
        user_id_chars: characters of a user id; 255 fits an e-mail address, a UUID, or a hash in any spelling.
        event_type_chars: characters of an event type.
        property_keys: keys of any one object in the properties.
        property_depth: levels of nesting in the properties, the object itself being the first.
        oldest_us: the earliest ``occurred_at``: 1970-01-01T00:00:00Z.
        future_us: how far ``occurred_at`` may lie after the server's clock; a day covers a sender whose clock has the
            right local time in the wrong zone.
        body_depth: brackets open at once anywhere in a body; deeper ones are an attack, not an event.
        body_marks: brackets, commas and strings of a body in which a flaw has to be looked for, which takes about two
            seconds for so many. A full batch of 2,000 events of 300 members has a quarter of that.
    """

    batch_events: int = 2_000
    body_bytes: int = 10 * 1024 * 1024
    event_bytes: int = 256 * 1024
    user_id_chars: int = 255
    event_type_chars: int = 100
    property_keys: int = 255
    property_depth: int = 8
    oldest_us: int = 0
    future_us: int = 24 * 3600 * 1_000_000
    body_depth: int = 1_000
    body_marks: int = 4_000_000


ECHO_CHARS = 64
"""The most that any message or answer repeats of what was sent."""
