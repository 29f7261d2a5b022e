"""The SQLite adapter: events durable in one file, with nothing to install or start.

Implements `eventcore.ports.EventStore` for URLs like ``sqlite:///relative/path`` and ``sqlite:////absolute/path``.
Capabilities: durable (every commit is synced to disk before the answer), shared (several processes of one machine may
open one file), precomputed activity. `store` says how the parts work together.
"""

from adapters.sqlite.store import migrate, open_store

__all__ = ["migrate", "open_store"]
