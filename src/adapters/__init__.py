"""Adapters: one module or folder for each technology, each implementing ports of eventcore."""
