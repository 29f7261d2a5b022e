"""Dead letters as a document, the same for HTTP and for ``--format json``.

A letter may hold what no event that is stored can: an id that is no UUID, a lone surrogate, properties that are no
JSON. JSON cannot say all of that, so here is how it is shown instead; the letter itself stays as it is. Not here: what
is done with dead letters (`eventcore.dead_letters`).
"""

from typing import Final
from uuid import UUID

import msgspec

from eventcore.calendar import format_instant
from eventcore.dead_letters import DeadPage, dead_id_text
from eventcore.dedup import member
from eventcore.events import DEFAULT_PROJECT, DeadLetter
from eventcore.service import Eventcore
from eventcore.strict_json import depth_of

DEFINITION: Final = (
    "events that were accepted and that the store refused, whole and with the reason, in the order of their names; "
    "replay stores them after all, drop deletes them for ever."
)

_MOST_DEPTH: Final = 100
"""Brackets open at once in properties that are shown as JSON; readers of JSON have limits of their own, from 500 on."""


class ShownLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter as JSON; times are RFC 3339 in UTC.

    Attributes:
        event_id: a UUID; hexadecimal digits of an id that is none.
        user_id, event_type: as sent, a lone surrogate as a backslash with its number.
        occurred_at: when it happened; a time outside the years 1 to 9999 as microseconds since 1970.
        properties: the JSON object, without white space between its parts; text that is no JSON object as a string.
        received_at: when the request that brought it was received.
        import_id: the import it came from, or None.
        reason: why it was refused, at the last attempt to take it in.
        attempts: how often that was tried.
        died_at: when it was given up.
        name: unique in the project; ``after`` goes on behind it.
    """

    event_id: str
    user_id: str
    event_type: str
    occurred_at: str
    properties: msgspec.Raw
    received_at: str
    import_id: str | None
    reason: str
    attempts: int
    died_at: str
    name: str


class DeadMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be known about a page of dead letters.

    Attributes:
        definition: what they are.
        next: give it as ``after`` for the next page; None when this is the last one.
    """

    definition: str
    next: str | None


class DeadDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A page of dead letters.

    Attributes:
        data: the letters, in the order of their names.
        meta: what has to be known about them.
    """

    data: tuple[ShownLetter, ...]
    meta: DeadMeta


async def dead_document(
    core: Eventcore,
    *,
    limit: int | str = 100,
    after: str = "",
    event_id: str | UUID | None = None,
    project: str = DEFAULT_PROJECT,
) -> DeadDocument:
    """A page of dead letters; arguments and errors as those of `Eventcore.dead_letters`."""
    page = await core.dead_letters(project=project, limit=limit, after=after, event_id=event_id)
    return _as_document(page)


def _as_document(page: DeadPage) -> DeadDocument:
    return DeadDocument(
        data=tuple(map(show_letter, page.letters)), meta=DeadMeta(definition=DEFINITION, next=page.next)
    )


def show_letter(letter: DeadLetter) -> ShownLetter:
    """A letter in a form that JSON can say, whatever it holds."""
    event = letter.event
    return ShownLetter(
        event_id=dead_id_text(event.event_id),
        user_id=_text(event.user_id),
        event_type=_text(event.event_type),
        occurred_at=_instant(event.occurred_us),
        properties=_properties(event.properties),
        received_at=_instant(letter.received_us),
        import_id=None if letter.import_id is None else dead_id_text(letter.import_id),
        reason=_text(letter.reason),
        attempts=letter.attempts,
        died_at=_instant(letter.died_us),
        name=member(event).hex(),
    )


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _instant(instant_us: int) -> str:
    try:
        return format_instant(instant_us)
    except (ValueError, OverflowError):
        return f"{instant_us} microseconds since 1970"


def _properties(properties: str) -> msgspec.Raw:
    try:
        # On one line, for JSON lines; the numbers keep their spelling, which they would not as floats.
        text = msgspec.json.format(properties.encode(), indent=-1)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        text = b""
    if text.startswith(b"{") and not _is_deep(text):
        return msgspec.Raw(text)
    return msgspec.Raw(msgspec.json.encode(_text(properties)))


def _is_deep(text: bytes) -> bool:
    return text.count(b"{") + text.count(b"[") > _MOST_DEPTH < depth_of(text)
