"""Load under which things break: a thread that sends, writes down what it was told, and resends all that is unknown."""

import random
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx

from tests.e2e.stack.sending import Event, an_event, request

ANSWER_SECONDS = 20.0
UNKNOWN = (408, 429, 503)
RESEND_SECONDS = 0.1
PAUSE_SECONDS = 0.03
"""Between two batches, so that what breaks is not the machine."""
PATIENCE_SECONDS = 90.0
"""For one batch, all its resends together; an outage is shorter."""


class Load(threading.Thread):
    """Sends batches of new and of repeated events until `finish` is called, and then what is still unknown.

    Attributes:
        sent: every event by its id.
        told: ids in batches that were answered with 202.
        unknowns: how often an answer did not come, or said "send again".
        surprises: what no sender should ever be told.
    """

    def __init__(self, url: str, seed: int, first_number: int) -> None:
        super().__init__(name=f"load {seed}")
        self.sent: dict[str, Event] = {}
        self.told: set[str] = set()
        self.unknowns = 0
        self.surprises: list[str] = []
        self._url = url
        self._chance = random.Random(seed)
        self._number = first_number
        self._finishing = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=ANSWER_SECONDS, trust_env=False, verify=False) as client:
            while not self._finishing.is_set() and not self.surprises:
                self._send(client, self._batch())
                time.sleep(PAUSE_SECONDS)

    def finish(self) -> None:
        self._finishing.set()
        self.join(PATIENCE_SECONDS + ANSWER_SECONDS)
        assert not self.is_alive(), "a batch is still not answered"
        assert self.surprises == []
        assert self.told == self.sent.keys()

    def _batch(self) -> list[Event]:
        batch = []
        recent = list(self.sent.values())[-500:]
        for _ in range(self._chance.randrange(1, 200)):
            if recent and self._chance.random() < 0.1:
                batch.append(self._chance.choice(recent))
                continue
            moment = datetime(2025, 3, 1, tzinfo=UTC) + timedelta(seconds=self._chance.randrange(20 * 86_400))
            event = an_event(self._number, f"user-{self._chance.randrange(400)}", moment)
            self._number += 1
            self.sent[event["event_id"]] = event
            batch.append(event)
        return batch

    def _send(self, client: httpx.Client, batch: list[Event]) -> None:
        gives_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < gives_up:
            try:
                answer = client.post("/events", **request(batch, "array"))
            except httpx.HTTPError:
                self._wait()
                continue
            if answer.status_code in UNKNOWN:
                self._wait()
                continue
            if answer.status_code != 202 or answer.json()["rejected"] or answer.json()["conflicts"]:
                self.surprises.append(answer.text[:500])
            self.told.update(event["event_id"] for event in batch)
            return
        self.surprises.append(f"no answer within {PATIENCE_SECONDS:g} s")

    def _wait(self) -> None:
        self.unknowns += 1
        time.sleep(RESEND_SECONDS)
