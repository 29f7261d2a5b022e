"""The table of settings in README.md, made from the settings class, so that it cannot be wrong.

python scripts/settings_table.py          print it
python scripts/settings_table.py --write  put it into README.md, between its two marks
"""

import sys
from pathlib import Path

from pydantic.fields import FieldInfo

from entrypoints.settings import PREFIX, Settings

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- settings: written by make settings -->"
END = "<!-- end of settings -->"


def table() -> str:
    """Every setting with its default and what it is for, as a Markdown table."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | what |", "| --- | --- | --- |", *rows])


def default(field: FieldInfo) -> str:
    """The default of a setting as one would write it into the environment."""
    if field.default is None:
        return "unset"
    value = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    return f"`{value}`"


def written(text: str) -> str:
    """A README with today's table in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
