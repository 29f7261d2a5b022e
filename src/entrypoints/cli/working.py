"""``eventcore worker``: events from the queue into the store, with flags over the settings."""

from typing import Annotated

import typer

from entrypoints.cli.exits import CommandError
from entrypoints.cli.options import StoreUrl
from entrypoints.cli.session import read_settings


def worker_command(
    host: Annotated[
        str | None, typer.Option("--host", help="The address of its health and metrics.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="The port of its health and metrics; 0 takes any free one.", show_default="8001"),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen beyond this machine; its port asks for no key.")
    ] = None,
    store_url: StoreUrl = None,
) -> None:
    """Take events from the queue into the store until SIGTERM or Ctrl-C; run as many as you like."""
    settings = read_settings(host=host, worker_port=port, insecure=insecure, store_url=store_url)
    if settings.queue_url.startswith("inline:"):
        raise CommandError(
            "there is no queue to work on: EVENTCORE_QUEUE_URL is inline://, and `eventcore serve` stores events by "
            "itself; a worker is for nats://…"
        )

    from entrypoints.worker.run import run_worker

    run_worker(settings)
