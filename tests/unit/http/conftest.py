"""The application in this process, on the memory store, without a server."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from entrypoints.container import open_eventcore
from entrypoints.http.app import create_app
from entrypoints.settings import Settings
from eventcore.service import Eventcore


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None, store_url="memory://", body_timeout_seconds=0.5)


@pytest.fixture
async def core(settings: Settings) -> AsyncIterator[Eventcore]:
    async with open_eventcore(settings) as opened:
        yield opened


@pytest.fixture
def app(settings: Settings, core: Eventcore) -> FastAPI:
    return create_app(settings, core)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as opened:
        yield opened
