"""The table of settings in README.md says what the settings class says."""

from scripts.settings_table import BEGIN, END, README, table, written

from entrypoints.settings import PREFIX, Settings


def test_the_readme_has_todays_table() -> None:
    text = README.read_text(encoding="utf-8")
    assert BEGIN in text
    assert END in text
    assert written(text) == text, "run `make settings`"


def test_every_setting_has_a_row_that_says_what_it_is() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [PREFIX + name.upper() for name in Settings.model_fields]
    assert all(row.split("|")[3].strip() not in ("", "None") for row in rows)
