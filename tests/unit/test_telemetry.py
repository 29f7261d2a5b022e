"""Logs tell operators what happened, and nothing of what was sent."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from entrypoints.telemetry import LOGGER, LogFormat, configure_logs


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(form: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """They hold headers with keys, bodies and user ids; structlog's usual one for people shows them all."""
    configure_logs(form=form)
    headers = [("authorization", "Bearer " + "".join(["ec_live_", "abcdefgh_", "z" * 32]))]
    try:
        raise RuntimeError(f"{len(headers)} went wrong")
    except RuntimeError:
        structlog.get_logger(LOGGER).exception("request failed")
        logging.getLogger("uvicorn").exception("request failed")
    written = capsys.readouterr().err
    assert written.count("1 went wrong") >= 2
    assert "z" * 32 not in written
