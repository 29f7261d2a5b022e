"""The PostgreSQL adapter: events on a server, with TimescaleDB where the database has it.

Implements `eventcore.ports.EventStore` for URLs like ``postgresql://user:password@host/database``; `address` says which
options they take. Capabilities: durable (every COMMIT waits for the disk, unless the server says otherwise, which
`describe` tells), shared (any number of processes on any number of machines), precomputed activity. `store` says how
the parts work together.
"""

from adapters.postgres.store import migrate, open_store

__all__ = ["migrate", "open_store"]
