"""The NATS adapter: a JetStream stream between the answer to a sender and the store.

Implements `eventcore.ports.Queue` and `eventcore.ports.Consumer` for URLs like
``nats://user:password@host:4222,other:4222/STREAM``; `address` says which options they take. Capabilities: durable
(what was published is in the broker's file), shared (any number of senders and workers), answers first. For NATS 2.11
or newer; tested with 2.11, 2.12 and 2.15. Set ``sync_interval: always`` in the broker's configuration: without it a
broker whose machine loses power may lose what it has acknowledged in the last two minutes, and no client can see or
change that setting.

A message is one chunk. `stream` makes or checks the stream, `link` keeps a connection, `queue` publishes, `consumer`
fetches.
"""

from adapters.nats.consumer import open_consumer
from adapters.nats.queue import open_queue

__all__ = ["open_consumer", "open_queue"]
