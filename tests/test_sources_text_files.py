from pathlib import Path

import pytest

from captioning.data.sources.row_builder import RowBuilder
from captioning.data.sources.text_files import LineFile
from captioning.errors import UserError

COMMA = "line with more cells than columns (a caption with a comma needs double quotes)"
QUOTE = "line isn't CSV (is a double quote left open?)"


def read(path: Path, text: str | bytes) -> tuple[list[tuple[str, dict]], list[tuple[str, str]]]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    draft = RowBuilder()
    lines = [tuple(line) for line in LineFile(path, path.name).read(draft, [])]
    return lines, [tuple(problem) for problem in draft.problems]


def columns(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return LineFile(path, path.name).column_names()


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b'{"a": ', "line isn't JSON"),
        (b"[" * 100_000, "line isn't JSON"),
        (b'{"a": "caf\xe9"}', "line isn't UTF-8 text"),
        (b"null", "line isn't a JSON object"),
        (b'["a"]', "line isn't a JSON object"),
    ],
    ids=["cut in half", "too deep", "another encoding", "null", "list"],
)
def test_a_bad_line_of_json_is_named_and_the_others_are_read(tmp_path, bad, kind):
    lines, problems = read(tmp_path / "x.jsonl", b'{"a": 1}\n' + bad + b'\n\n{"a": 3}')
    assert lines == [("x.jsonl line 1", {"a": 1}), ("x.jsonl line 4", {"a": 3})]
    assert problems == [(kind, "x.jsonl line 2")]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b"1,red, and a cat", COMMA),
        (b'1,"caf\xe9"', "line isn't UTF-8 text"),
        (b'1,"open', QUOTE),
        (b'1,"a" b', QUOTE),
    ],
    ids=["comma", "another encoding", "open quote", "text after a quote"],
)
def test_a_bad_line_of_csv_is_named_and_the_others_are_read(tmp_path, bad, kind):
    lines, problems = read(tmp_path / "x.csv", b'a,b\n0,"a\nb"\n' + bad + b"\n\n2,y\n3,z\n")
    assert [cells["a"] for _, cells in lines] == ["0", "2", "3"]
    assert problems == [(kind, "x.csv line 4")]


def test_lines_of_csv_are_counted_where_they_begin(tmp_path):
    lines, _ = read(tmp_path / "x.csv", 'a,b\n\n0,"a\nb"\n1,c\n')
    assert [where for where, _ in lines] == ["x.csv line 3", "x.csv line 5"]


def test_several_open_quotes_in_a_csv_are_each_named(tmp_path):
    lines, problems = read(tmp_path / "x.csv", 'a,b\n1,"x\n2,y\n3,"z\n4,w\n')
    assert [cells["a"] for _, cells in lines] == ["2", "4"]
    assert problems == [(QUOTE, "x.csv line 2"), (QUOTE, "x.csv line 4")]


def test_a_cell_may_be_larger_than_csv_usually_takes(tmp_path):
    lines, problems = read(tmp_path / "x.csv", f"a,b\n1,{'x' * 200_000}\n")
    assert len(lines[0][1]["b"]) == 200_000
    assert problems == []


def test_an_open_quote_does_not_take_megabytes_for_a_caption(tmp_path):
    lines, problems = read(tmp_path / "x.csv", 'a,b\n1,"x\n' + f"2,{'y' * 1000}\n" * 17_000)
    assert len(lines) == 17_000
    assert problems == [(QUOTE, "x.csv line 2")]


def test_a_nul_in_a_csv_does_not_keep_the_other_lines_from_being_read(tmp_path):
    lines, _ = read(tmp_path / "x.csv", "a,b\n1,x\0y\n2,z\n")
    assert [cells for _, cells in lines] == [{"a": "1", "b": "x\0y"}, {"a": "2", "b": "z"}]


def test_tabs_separate_the_cells_of_a_tsv(tmp_path):
    assert read(tmp_path / "x.tsv", "a\tb\n1\tx, y\n")[0] == [("x.tsv line 2", {"a": "1", "b": "x, y"})]


def test_spaces_around_the_names_of_columns_do_not_count(tmp_path):
    assert columns(tmp_path / "x.csv", "file_name, text \n") == ["file_name", "text"]


def test_the_columns_of_jsonl_are_those_of_all_its_lines(tmp_path):
    assert columns(tmp_path / "x.jsonl", '{"a": 1}\n{oops\n{"b": 1, "a": 2}\n') == ["a", "b"]


@pytest.mark.parametrize("text", ["a,b\n1,2\n".encode("utf-16"), b"gr\xf6\xdfe,b\n"], ids=["UTF-16", "Latin-1"])
def test_a_csv_whose_columns_cannot_be_read_is_refused(tmp_path, text):
    (tmp_path / "x.csv").write_bytes(text)
    with pytest.raises(UserError, match=r"x\.csv: not UTF-8 text; save the file in that encoding"):
        LineFile(tmp_path / "x.csv", "x.csv").column_names()


def test_a_broken_parquet_file_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"x\.parquet: can't be read as Parquet"):
        LineFile(tmp_path / "x.parquet", "x.parquet").column_names()
