"""GET /docs: what the API offers, with examples to copy, generated from the OpenAPI document.

Plain HTML without scripts, so it works on a machine without internet; FastAPI's own page loads Swagger UI from another
host, which is switched off. Not here: the OpenAPI document itself, at /openapi.json.
"""

import json
import shlex
from html import escape
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

FIRST_KEY: Final = "The first `eventcore keys create` closes it to all who have no key."
"""What the log and the page say of an open server."""

_HEADERS: Final = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f4f4f4;padding:.6rem;overflow-x:auto}td,th{text-align:left;vertical-align:top;padding:.1rem .8rem"
    " .1rem 0}h2{border-top:1px solid #ccc;padding-top:1rem}@media(prefers-color-scheme:dark){body{background:#111;"
    "color:#eee}pre{background:#222}a{color:#8bf}}"
)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    document = request.app.openapi()
    base = f"{request.url.scheme}://{request.url.netloc}"
    keyring = await request.app.state.access.peek()
    is_open = keyring is not None and keyring.is_empty and request.app.state.keyless != "closed"
    parts = [_operation(base, path, method, found, is_open) for path, method, found in operations(document)]
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><p>{escape(document['info']['description'])}</p>"
        f"<p>{escape(_reach(is_open, request.app.state.keyless))}</p>"
        f'<p>For programs: <a href="/openapi.json">/openapi.json</a></p>{"".join(parts)}</html>'
    )
    return HTMLResponse(page, headers=_HEADERS)


def _reach(is_open: bool, keyless: str) -> str:
    """Who gets in."""
    if is_open:
        who = "everybody who reaches it" if keyless == "open" else "everybody on this machine"
        return f"This server is open: no API key was made yet, so {who} reads and writes everything. {FIRST_KEY}"
    return "An API key is needed: send it as Authorization: Bearer, as X-Api-Key, or as user name of HTTP Basic."


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every (path, method, operation) of an OpenAPI document."""
    return [(path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def example_url(path: str, operation: dict[str, Any]) -> str:
    """The path with the examples of its parameters: those in the path, and the required ones of the query."""
    query = []
    for parameter in operation.get("parameters", ()):
        example = (parameter.get("schema", {}).get("examples") or parameter.get("examples") or [None])[0]
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", str(example))
        elif parameter.get("required"):
            query.append(f"{parameter['name']}={example}")
    return path + ("?" + "&".join(query) if query else "")


def _operation(base: str, path: str, method: str, operation: dict[str, Any], is_open: bool) -> str:
    rows = "".join(
        f"<tr><th><code>{escape(parameter['name'])}</code></th>"
        f"<td>{escape(parameter.get('description', ''))}{' (required)' if parameter.get('required') else ''}</td></tr>"
        for parameter in operation.get("parameters", ())
    )
    url = base + example_url(path, operation)
    curl = f"curl {shlex.quote(url)}"
    if operation.get("security") and not is_open:
        curl += ' -H "Authorization: Bearer $EVENTCORE_API_KEY"'
    if method == "post" and "requestBody" not in operation:
        curl += " -X POST"
    commands = [curl]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        for example in content.get("examples", {}).values():
            value = example["value"]
            body = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            commands.append(
                f"# {example['summary']}\n{curl} -H 'Content-Type: {media_type}' --data-binary {shlex.quote(body)}"
            )
    if len(commands) > 1:
        del commands[0]
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
        f"<table>{rows}</table><pre>{escape(chr(10).join(commands))}</pre>"
    )
