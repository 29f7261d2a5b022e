"""One scenario, five homes: the same events come in over HTTP, and the same exact answers come out.

Events of two projects are sent in every form, with flaws, repeats, losers and events that come years late; API and
workers are processes of their own.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack.asking import Question, ask, check_books, dau, retention, top_events, wait_until_stored
from tests.e2e.stack.homes import HOMES, MEMORY, Home, running
from tests.e2e.stack.running import LOCAL, Stack
from tests.e2e.stack.sending import Book, Sender, first_batches, later_batches, same

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTIONS = (
    dau("2025-02-18", "2025-04-08"),
    dau("2025-03-01", "2025-04-05", "America/St_Johns"),
    dau("2025-03-20", "2025-04-08", "Pacific/Chatham", "event_type:purchase"),
    dau("1999-12-30", "2000-01-10", "Europe/Kyiv"),
    dau("2025-03-01", "2025-03-31", "Asia/Kathmandu", "properties.country:UA", "event_type=page_view"),
    top_events("2025-02-18", "2025-04-08"),
    top_events("2025-03-09", "2025-03-30", "Europe/Kyiv", limit=3),
    top_events("2016-01-01", "2025-12-31", "Pacific/Chatham", "properties.country:NP"),
    retention("2025-02-20", "day", 14, 30),
    retention("2025-02-20", "week", 5, 6, "America/St_Johns", week_start="sunday"),
    retention("2025-02-20", "week", 4, 4, "Europe/Kyiv", cohort_event="signup", return_event="purchase"),
    retention("2025-03-01", "day", 5, 7, "Asia/Kathmandu", "properties.country:UA", cohort="recurring"),
    retention("2025-03-05", "week", 3, 3, "Pacific/Chatham", cohort="first_in_range", returns="on_or_after"),
    retention("2025-01-15", "month", 2, 3, "Europe/Kyiv"),
    retention("1999-12-15", "month", 3, 2),
)
PROJECTS = ("default", "shop")


def play(stack: Stack) -> dict[str, Book]:
    """Send everything; what depends on being stored first waits until the rest is."""
    sender = Sender(stack.url)
    for project, batch in first_batches():
        sender.send(batch, project)
    wait_until_stored(stack.url, sender.books)
    for batch in later_batches(sender.books["default"].firsts):
        sender.send(batch)
    wait_until_stored(stack.url, sender.books)
    sender.close()
    return sender.books


@pytest.fixture(scope="session")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Question, str], dict[str, Any]]:
    """Every document of the smallest home."""
    with running(MEMORY, tmp_path_factory.mktemp("memory")) as stack:
        play(stack)
        return {(question, project): answer(stack, question, project) for question in QUESTIONS for project in PROJECTS}


@pytest.mark.parametrize("home", HOMES, ids=lambda home: home.name)
def test_the_same_events_give_the_same_exact_answers(
    home: Home, tmp_path: Path, in_memory: dict[tuple[Question, str], dict[str, Any]]
) -> None:
    # One test, because playing the scenario is what costs.
    with running(home, tmp_path) as stack:
        books = play(stack)
        check_that_the_books_say_what_was_sent(stack, books)
        documents = {
            (question, project): answer(stack, question, project) for question in QUESTIONS for project in PROJECTS
        }
        check_that_every_statistic_equals_the_oracle(documents, books)
        check_that_documents_are_the_same(documents, in_memory)
        check_that_events_are_found_as_they_were_sent_first(stack, books)
        if home.outlives:
            stack.verify()


def answer(stack: Stack, question: Question, project: str) -> dict[str, Any]:
    return ask(stack.url, question.path, question.parameters, project)


def check_that_the_books_say_what_was_sent(stack: Stack, books: Mapping[str, Book]) -> None:
    assert len(books["default"].firsts) > 3_500
    for project, book in books.items():
        assert min(book.duplicates, book.conflicts, book.rejected) > 0
        check_books(stack.url, project, book)


def check_that_every_statistic_equals_the_oracle(
    documents: Mapping[tuple[Question, str], dict[str, Any]], books: Mapping[str, Book]
) -> None:
    for (question, project), document in documents.items():
        assert document["data"] == question.expected(books[project].events), question
        assert (document["meta"]["pending"], document["meta"]["exact"]) == (0, True)


def check_that_documents_are_the_same(
    documents: Mapping[tuple[Question, str], dict[str, Any]], expected: Mapping[tuple[Question, str], dict[str, Any]]
) -> None:
    """But for what each home says of itself and of the moment."""
    assert documents.keys() == expected.keys()
    for asked, document in documents.items():
        assert document["data"] == expected[asked]["data"]
        assert document["meta"] | expected[asked]["meta"] | own(document) == document["meta"], asked


def own(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document["meta"][name] for name in ("data_as_of", "took_ms", "computed_from")}


def check_that_events_are_found_as_they_were_sent_first(stack: Stack, books: Mapping[str, Book]) -> None:
    for project, book in books.items():
        for event_id, event in [*book.firsts.items()][::97]:
            found = LOCAL.get(f"{stack.url}/events/{event_id}", params={"project": project}).json()
            assert same(event, found)
            assert datetime.fromisoformat(found["received_at"]).tzinfo is not None
    stranger = next(iter(books["default"].firsts))
    assert LOCAL.get(f"{stack.url}/events/{stranger}", params={"project": "nobody"}).status_code == 404
