"""What JetStream, nats-py and TimescaleDB really do: small programs that show it. ``python -m experiments`` lists them.

Each module beside this one asks a question in its docstring, starts a real server of its own on 127.0.0.1, prints what
it saw, and fails when that is not what LEARNED.md states. Nothing of eventcore is imported: this is about its parts.
"""
