"""The Redis adapter: marks of known events on a server that several processes share.

Implements `eventcore.ports.DedupCache` for ``redis://user:password@host:port/database`` and, over TLS, ``rediss://…``;
`address` says which options a URL takes. Redis 6.2 or newer, or Valkey; one server, no client of Redis Cluster. `cache`
says how marks are kept, `connections` and `circuit` how little a server that is slow or away may cost.

What to give the server: ``maxmemory`` (a mark takes 60 to 95 bytes, by version and allocator) and ``maxmemory-policy
volatile-ttl``, which makes room by forgetting the oldest marks first. Nothing has to be persisted. A user of its own
needs the keys ``eventcore:*`` and the commands eval, smismember, sadd, pexpire and unlink.
"""

from adapters.redis.cache import RedisCache, open_dedup

__all__ = ["RedisCache", "open_dedup"]
