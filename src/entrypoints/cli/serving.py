"""``eventcore serve``: the HTTP API, with flags over the settings."""

from typing import Annotated

import typer

from entrypoints.cli.options import StoreUrl
from entrypoints.cli.session import read_settings


def serve_command(
    host: Annotated[
        str | None, typer.Option("--host", help="The address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="The port to listen on; 0 takes any free one.", show_default="8000")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let in everybody as long as there are no keys.")
    ] = None,
    store_url: StoreUrl = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    settings = read_settings(host=host, port=port, insecure=insecure, store_url=store_url)

    from entrypoints.http.serve import serve

    serve(settings)
