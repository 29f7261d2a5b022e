"""Entrypoints: settings, container, HTTP, CLI and worker around eventcore."""
