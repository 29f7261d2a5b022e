"""Places for the stacks of these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack.homes import Servers, ending, own_servers
from tests.e2e.stack.running import Stack


@pytest.fixture
def own() -> Iterator[Servers]:
    """Servers that the test may stop."""
    with own_servers() as servers:
        yield servers


@pytest.fixture
def stack(own: Servers, tmp_path: Path) -> Iterator[Stack]:
    """A stack on these servers, of which nothing runs yet."""
    with ending(Stack(tmp_path, own.settings)) as stack:
        yield stack
