"""What the HTTP tests send: factories of valid events, and requests as bytes."""

import json
from typing import Any
from uuid import uuid4

JSON = "application/json"
NDJSON = "application/x-ndjson"


def an_event(**changes: Any) -> dict[str, Any]:
    """A valid event with a fresh id; ``changes`` replace members, those that are `...` are left out."""
    event = {
        "event_id": str(uuid4()),
        "user_id": "ada",
        "event_type": "signup",
        "occurred_at": "2026-01-05T09:30:00Z",
        "properties": {"plan": "pro"},
    } | changes
    return {name: value for name, value in event.items() if value is not ...}


def as_bytes(events: Any) -> bytes:
    """JSON as most senders write it."""
    return json.dumps(events, ensure_ascii=False).encode("utf-8", "surrogatepass")


def raw_event(raw_member: str, **changes: Any) -> bytes:
    """A valid event whose JSON also holds ``raw_member``, written as it is."""
    return (json.dumps(an_event(**changes))[:-1] + f", {raw_member}}}").encode()


def raw_post(body: bytes, *headers: str, path: str = "/events", length: bool = True) -> bytes:
    """A POST as bytes on the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {JSON}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
