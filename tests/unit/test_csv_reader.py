"""CSV files to rows: a flaw costs one row, line numbers are those of the file, damage ends a file but not the import."""

import csv
import gzip
import io
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints import csv_reader
from entrypoints.csv_reader import RowReader, Source
from eventcore.strict_json import Flaw


def read(path: Path, content: bytes, *, name: str = "rows.csv") -> tuple[list[tuple[int, object]], str | None]:
    """The rows behind the header as (line, fields or the code of the flaw), and the damage."""
    file = path / name
    file.write_bytes(content)
    with Source(file.open("rb", buffering=0), name=str(file), size=len(content)) as source:
        reader = RowReader(source)
        if reader.read_header() is None:
            return [], source.damage
        rows = [
            (number, found.code if isinstance(found, Flaw) else found)
            for batch in reader.batches()
            for number, found in zip(batch.numbers, batch.fields, strict=True)
        ]
        return rows, source.damage


@pytest.mark.parametrize("broken", [b"", b'3;"x"y\n'])
def test_another_delimiter_follows_the_same_rules(tmp_path: Path, broken: bytes) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'a;b\n"1;2";x,y\n' + broken)
    with Source(file.open("rb", buffering=0), name=str(file), size=None) as source:
        reader = RowReader(source, ";")
        header = reader.read_header()
        assert header is not None
        assert header[0] == ["a", "b"]
        [rows] = reader.batches()
    assert rows.fields[0] == ["1;2", "x,y"]
    assert [found.code for found in rows.fields[1:] if isinstance(found, Flaw)] == ["broken_quote"] * bool(broken)


def test_rows_have_the_line_they_begin_in(tmp_path: Path) -> None:
    content = b'a,b\n1,2\n"x\ny",3\n\n4,"5\n\n6"\n7,8'
    assert read(tmp_path, content) == (
        [(2, ["1", "2"]), (3, ["x\ny", "3"]), (6, ["4", "5\n\n6"]), (9, ["7", "8"])],
        None,
    )


def test_crlf_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n")
    with Source(file.open("rb", buffering=0), name="rows.csv", size=None) as source:
        reader = RowReader(source)
        header = reader.read_header()
        assert header is not None
        assert header[0] == ["a", "b"]
        assert [(batch.numbers, batch.fields) for batch in reader.batches()] == [([2, 4], [["1", "2"], ["3", "4"]])]


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ('1,"2', "unclosed_quote"),
        ('1,"2"x', "broken_quote"),
        ('1,"2\r,3', "unclosed_quote"),
        ("1,2\r3,4", "bare_carriage_return"),
    ],
)
@pytest.mark.parametrize("rest", ["5,6\n", '5,"6 ""x"""\n', "5,6\n" * 50, '"5",6\n"7","8"\n'])
def test_a_broken_row_costs_its_line_only(tmp_path: Path, broken: str, code: str, rest: str) -> None:
    rows, _ = read(tmp_path, f"a,b\n1,2\n{broken}\n{rest}".encode())
    if code == "unclosed_quote" and '"' in rest:
        code = "broken_quote"  # the next quote shows it
    expected = list(csv.reader(io.StringIO(rest)))
    assert rows == [(2, ["1", "2"]), (3, code), *((4 + place, fields) for place, fields in enumerate(expected))]


def test_two_broken_rows_cost_two_lines(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, b'a,b\n1,"2\n3,4\n5,"6\n7,8\n')
    assert rows == [(2, "broken_quote"), (3, ["3", "4"]), (4, "unclosed_quote"), (5, ["7", "8"])]


def test_a_well_formed_row_is_one_row_whatever_stands_inside_its_quotes(tmp_path: Path) -> None:
    # By RFC 4180 the inner line is text of a field, and no row: a sender must not be able to smuggle rows in.
    assert read(tmp_path, b'a,b\n1,"x\n9,9\ny",3\n4,5\n')[0] == [(2, ["1", "x\n9,9\ny", "3"]), (5, ["4", "5"])]


def test_a_row_beyond_the_limit_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "ROW_CHARS", 1_000)
    long_line = b"1," + b"x" * 5_000
    assert read(tmp_path, b"a,b\n" + long_line + b"\n3,4\n")[0] == [(2, "row_too_large"), (3, ["3", "4"])]
    assert read(tmp_path, b"a,b\n3,4\n" + long_line)[0] == [(2, ["3", "4"]), (3, "row_too_large")]
    swallowing = b'1,"' + b"5,6\n" * 400
    rows, _ = read(tmp_path, b"a,b\n" + swallowing)
    assert rows == [(2, "unclosed_quote"), *((3 + place, ["5", "6"]) for place in range(399))]


def test_a_huge_line_takes_bounded_memory(tmp_path: Path) -> None:
    size = 40 * 1024 * 1024
    tracemalloc.start()
    try:
        rows, _ = read(tmp_path, b"")
        tracemalloc.reset_peak()
        (tmp_path / "huge.csv").write_bytes(b"a,b\n")
        with (tmp_path / "huge.csv").open("ab") as file:
            for _ in range(40):
                file.write(b"y" * (size // 40))
            file.write(b"\n3,4\n")
        with Source((tmp_path / "huge.csv").open("rb", buffering=0), name="huge.csv", size=size) as source:
            reader = RowReader(source)
            reader.read_header()
            rows = [found for batch in reader.batches() for found in batch.fields]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(rows[0], Flaw)
    assert rows[1:] == [["3", "4"]]
    assert peak < 16 * 1024 * 1024


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4) | st.sampled_from(
    ["", '"', "\n", "\r\n", ",", 'a"b', '""', "\r", "\ufeff"]
)


@given(
    st.lists(st.lists(texts, min_size=2, max_size=4), max_size=12), st.sampled_from(["\n", "\r\n"]), st.integers(1, 5)
)
def test_whatever_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], line_end: str, batch_rows: int
) -> None:
    written = io.StringIO()
    # With "\n" as the line end, Python's writer leaves carriage returns unquoted.
    writer = csv.writer(
        written, lineterminator=line_end, quoting=csv.QUOTE_ALL if line_end == "\n" else csv.QUOTE_MINIMAL
    )
    writer.writerow(["a", "b"])
    lines = []
    for row in rows:
        lines.append(written.getvalue().count("\n") + 1)
        writer.writerow(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_reader, "BATCH_ROWS", batch_rows)
        found, _ = read(tmp_path_factory.getbasetemp(), written.getvalue().encode())
    assert found == list(zip(lines, rows, strict=True))


@given(st.lists(st.sampled_from(['1,"x', "5,6", '7,"8"', '9,"a\nb"', '1,"2"x', ""]), max_size=14), st.integers(1, 5))
def test_batches_do_not_change_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], batch_rows: int
) -> None:
    content = "".join(f"{line}\n" for line in ["a,b", *lines]).encode()
    whole = read(tmp_path_factory.getbasetemp(), content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_reader, "BATCH_ROWS", batch_rows)
        assert read(tmp_path_factory.getbasetemp(), content) == whole


PLAIN = b"a,b\n" + b"".join(b"%d,%d\n" % (number, number) for number in range(2_000))
WHOLE = [(number + 2, [str(number), str(number)]) for number in range(2_000)]


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows"])
def test_gzip_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, gzip.compress(PLAIN), name=name) == (WHOLE, None)


def test_gzip_of_several_members_with_padding_is_one_file(tmp_path: Path) -> None:
    content = gzip.compress(PLAIN[:1_001]) + b"\0" * 700 + gzip.compress(PLAIN[1_001:]) + b"\0" * 10
    assert read(tmp_path, content) == (WHOLE, None)


def test_gzip_cut_short_gives_the_whole_rows_before_the_cut(tmp_path: Path) -> None:
    compressed = gzip.compress(PLAIN)
    for cut in (len(compressed) // 2, len(compressed) - 1, len(compressed) - 9):
        rows, damage = read(tmp_path, compressed[:cut], name="rows.csv.gz")
        assert damage is not None
        assert "cut short" in damage
        assert rows == WHOLE[: len(rows)]
        assert len(rows) > 100


def test_a_half_row_at_the_cut_is_no_row(tmp_path: Path) -> None:
    compressor = zlib.compressobj(wbits=31)
    cut = compressor.compress(b"a,b\n1,2\n3,4") + compressor.flush(zlib.Z_SYNC_FLUSH)  # 3,45 in the whole file
    rows, damage = read(tmp_path, cut)
    assert (rows, damage) == ([(2, ["1", "2"])], "the gzip data ends too early; the file is cut short")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x1f\x8b"])
def test_a_file_named_gz_must_be_gzip(tmp_path: Path, content: bytes) -> None:
    rows, damage = read(tmp_path, content, name="rows.csv.gz")
    assert rows == []
    assert damage is not None


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    compressed = bytearray(gzip.compress(PLAIN))
    compressed[-6] ^= 1
    assert read(tmp_path, bytes(compressed))[1] == "the gzip data is damaged"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_header(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == ([], None)
