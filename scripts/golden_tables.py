"""Write the golden tables of tests/golden anew: the naive oracle's answers, never eventcore's own.

python -m scripts.golden_tables         all whose events are there
python -m scripts.golden_tables sample  one of them
"""

import sys

from tests.oracles.answering import answer
from tests.parity.golden import GOLDENS, Golden


def write(golden: Golden) -> None:
    """Ask the oracle all there is to ask, and keep its answers."""
    events = golden.events()
    golden.write(
        {
            request: answer(events, question.statistic, question.params, golden.now)
            for request, question in golden.questions
        }
    )
    print(f"{golden.file}: {golden.file.stat().st_size:,} bytes")


if __name__ == "__main__":
    for golden in GOLDENS:
        if golden.name in (sys.argv[1:] or [one.name for one in GOLDENS]):
            try:
                write(golden)
            except FileNotFoundError as error:
                sys.exit(f"golden_tables: {error.filename} is missing: name its folder in EVENTCORE_SHARED_DATA")
