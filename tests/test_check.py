import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from captioning.data.check import check_pictures
from captioning.data.folder import read_folder
from captioning.data.pictures import PictureSource
from captioning.data.rows import make_rows

WEB_PAGE = b"<!DOCTYPE html><title>404 Not Found</title>"


@pytest.fixture
def three(tmp_path):
    """A folder of three captioned pictures."""
    folder = tmp_path / "three"
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (4, 4), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {name}")
    return folder


def fingerprint(folder: Path) -> str:
    return check_pictures(read_folder(str(folder))).fingerprint


def test_pictures_that_can_be_read_are_kept_as_they_are(three):
    rows = read_folder(str(three))
    assert list(check_pictures(rows).rows.table) == list(rows.table)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(lambda file: file.write_bytes(WEB_PAGE), "not a picture", id="web page"),
        pytest.param(lambda file: file.write_bytes(b""), "empty file", id="empty"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-30]), "truncated", id="truncated"),
        pytest.param(lambda file: file.unlink(), "No such file", id="gone"),
    ],
)
def test_a_picture_that_cannot_be_read_is_left_out_by_name_with_the_reason(three, damage, expected):
    rows = read_folder(str(three))
    damage(three / "b.png")
    checked = check_pictures(rows).rows
    assert checked.ids == ["a.png", "c.png"]
    assert [problem.name for problem in checked.problems] == ["b.png"]
    assert expected in checked.problems[0].kind


def test_what_was_left_out_before_is_still_known(three):
    (three / "b.txt").unlink()
    (three / "c.png").write_bytes(WEB_PAGE)
    checked = check_pictures(read_folder(str(three))).rows
    assert [problem.name for problem in checked.problems] == ["b.png", "c.png"]


def test_in_a_large_data_set_each_picture_keeps_its_own_row(tmp_path):
    # More than are examined at a time, the last of each thousand damaged.
    Image.new("L", (1, 1)).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    names = [f"{number:04d}" for number in range(2100)]
    bad = {"0999", "1023", "1024", "2099"}
    rows = make_rows(
        ids=names,
        images=[PictureSource(bytes=WEB_PAGE if name in bad else good, path=None) for name in names],
        captions=[["x"]] * len(names),
        splits=[None] * len(names),
        problems=[],
    )
    checked = check_pictures(rows).rows
    assert checked.ids == [name for name in names if name not in bad]
    assert {problem.name for problem in checked.problems} == bad


def test_the_fingerprint_of_the_same_folder_is_the_same(three):
    assert fingerprint(three) == fingerprint(three)


def test_the_fingerprint_does_not_depend_on_where_the_folder_is(three, tmp_path):
    before = fingerprint(three)
    assert fingerprint(three.rename(tmp_path / "elsewhere")) == before


def test_the_fingerprint_does_not_depend_on_where_captions_stand(three):
    before = fingerprint(three)
    lines = [json.dumps({"file_name": f"{name}.png", "text": f"picture {name}"}) for name in "cab"]
    (three / "metadata.jsonl").write_text("\n".join(lines))
    assert fingerprint(three) == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda folder: (folder / "b.txt").write_text("picture B"), id="caption"),
        pytest.param(lambda folder: (folder / "b.txt").write_text("picture b\nmore"), id="further caption"),
        pytest.param(lambda folder: Image.new("RGB", (4, 4), "#ff0001").save(folder / "b.png"), id="pixel"),
        pytest.param(lambda folder: (folder / "b.png").unlink(), id="picture gone"),
        pytest.param(lambda folder: (folder / "b.png").write_bytes(WEB_PAGE), id="picture damaged"),
        pytest.param(
            lambda folder: [shutil.copy(folder / f"b.{s}", folder / f"d.{s}") for s in ("png", "txt")], id="row added"
        ),
        pytest.param(lambda folder: [(folder / f"c.{s}").rename(folder / f"z.{s}") for s in ("png", "txt")], id="name"),
    ],
)
def test_the_fingerprint_changes_with_the_data(three, change):
    before = fingerprint(three)
    change(three)
    assert fingerprint(three) != before
