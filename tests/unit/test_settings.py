"""Settings: each is described, read from the environment, and what is wrong is said once, without values."""

from pathlib import Path

import pytest

from entrypoints.container import shown_url
from entrypoints.settings import Settings, SettingsError, load_settings, unknown_names
from eventcore.limits import Limits


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_defaults_are_the_cores() -> None:
    assert load_settings(_env_file=None).limits == Limits()


def test_the_environment_is_read_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTCORE_PORT", "9000")
    monkeypatch.setenv("EVENTCORE_HOST", "::1")
    settings = load_settings(port=9001)
    assert (settings.host, settings.port) == ("::1", 9001)


def test_all_that_is_wrong_is_said_at_once_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTCORE_PORT", "hunter2")
    monkeypatch.setenv("EVENTCORE_LOG_LEVEL", "hunter2")
    monkeypatch.setenv("EVENTCORE_REPORTING_ZONE", "Mars/Base")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "EVENTCORE_REPORTING_ZONE", "EVENTCORE_PORT", "EVENTCORE_LOG_LEVEL",
    ]  # fmt: skip
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("chosen", "named"),
    [({"event_bytes": 65_536, "body_bytes": 32_768}, "BODY_BYTES"), ({"in_flight_bytes": 2**20}, "IN_FLIGHT_BYTES")],
)
def test_limits_must_fit_each_other(chosen: dict[str, int], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(**chosen)


def test_urls_do_not_show_in_what_is_printed() -> None:
    assert "hunter2" not in repr(load_settings(store_url="postgresql://u:hunter2@h/d"))


def test_a_name_that_is_no_setting_is_noticed() -> None:
    names = ["EVENTCORE_STORE_URI", "EVENTCORE_PORT", "EVENTCORE_TEST_POSTGRES_URL", "EVENTCORE_REQUIRE", "PATH"]
    assert unknown_names(names) == ["EVENTCORE_STORE_URI is not a setting; did you mean EVENTCORE_STORE_URL?"]


def test_a_name_in_the_file_that_is_no_setting_is_noticed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("EVENTCORE_STORE_ULR=hunter2\nEVENTCORE_PROT=1\nexport EVENTCORE_PORT=1\nOTHER=1\n")
    assert unknown_names(["EVENTCORE_PROT"]) == [
        "EVENTCORE_PROT is not a setting; did you mean EVENTCORE_PORT?",
        "EVENTCORE_STORE_ULR (in .env) is not a setting; did you mean EVENTCORE_STORE_URL?",
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@db.example:5432/events?password=p", "postgresql://db.example:5432/events"),
        ("sqlite:///data/events.sqlite3", "sqlite:///data/events.sqlite3"),
        ("memory://", "memory://"),
        ("redis://:secret@[::1]:6379/0", "redis://::1:6379/0"),
        ("secret", "not a URL"),
        ("x://[secret", "a URL that cannot be read"),
        ("x://host:secret/", "a URL that cannot be read"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown
