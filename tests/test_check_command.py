"""`captioning check` as a user runs it, and the page that it leaves."""

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from conftest import SMALL
from PIL import Image
from rows import make_rows
from typer.testing import CliRunner, Result

from captioning.cli import app
from captioning.data.cache import ImageInfo
from captioning.data.issues import DataReport, find_issues
from captioning.data.rows import RowIssue
from captioning.data.statistics import summarize
from captioning.runs.report.check_page import Check, render_check

HOSTILE = """<script>alert(1)</script><img src=x onerror=alert(2)> "quoted' {{ 7 * 7 }} [red]$x^2$ 猫 🐈 قطة \x1b[31m"""


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    """29 good images, to be spoilt."""
    return Path(shutil.copytree(images, tmp_path / "images"))


@pytest.fixture
def checked(tmp_path: Path):
    def checked(folder: Path, *settings: str) -> Result:
        where = [f"data.path={folder}", f"data.cache_dir={tmp_path / 'cache'}", "--output-dir", str(tmp_path / "out")]
        return CliRunner().invoke(app, ["check", *SMALL, *where, *settings])

    return checked


def spoil(folder: Path, count: int) -> list[str]:
    """Turn some images into files that are none; their names."""
    names = sorted(path.name for path in folder.glob("*.png"))[:count]
    for name in names:
        (folder / name).write_text("no image")
    return names


def findings(tmp_path: Path) -> dict[str, list[str]]:
    content = json.loads((tmp_path / "out" / "check.json").read_text())
    return {finding["kind"]: finding["names"] for finding in content["findings"]}


def text_of(page: str) -> str:
    """What a page says, tags left out and spaces made one."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.partition("<body>")[2])).split())


# ------------------------------------------------------------ the command


def test_good_data_are_ready(folder, checked, tmp_path):
    result = checked(folder)
    assert result.exit_code == 0, result.output
    assert "ready: 29 images, nothing left out" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "check.html",
        "check.json",
        "splits.json",
    }


def test_each_split_is_counted(folder, checked):
    lines = checked(folder).stdout.splitlines()
    (val,) = (line for line in lines if line.startswith("│ val"))
    assert re.findall(r"[\d/ ]+\d", val)[0].strip() == "3"
    assert "40 / 40 / 40" in val


def test_what_is_left_out_is_named_in_full_in_the_file_and_in_part_in_the_terminal(folder, checked, tmp_path):
    names = spoil(folder, 5)
    result = checked(folder, "data.max_bad_share=0.5")
    assert result.exit_code == 0
    assert "ready, with 5 of 29 left out" in result.stdout
    assert findings(tmp_path)["image can't be read: not an image"] == names
    shown = "".join(result.stdout.split())
    assert names[2] in shown
    assert names[3] not in shown


def test_anything_left_out_is_too_much_where_it_is_strict(folder, checked):
    spoil(folder, 1)
    assert checked(folder).exit_code == 0
    result = checked(folder, "data.strict=true")
    assert result.exit_code == 1
    assert "not ready: data.strict=true doesn't allow for 1 of 29 left out" in result.stdout


def test_more_left_out_than_is_allowed_is_not_ready(folder, checked, tmp_path):
    spoil(folder, 3)
    result = checked(folder)
    assert result.exit_code == 1
    assert "not ready: 3 of 29 left out, more than data.max_bad_share=0.1" in result.stdout
    assert json.loads((tmp_path / "out" / "check.json").read_text())["ready"] is False


def test_a_copy_of_a_image_on_two_sides_of_given_splits_is_a_leak(folder, checked, tmp_path):
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["split"] = ("train", "val", "test")[number % 3]
    shutil.copy(folder / lines[0]["file_name"], folder / "copy.png")
    lines.append({"file_name": "copy.png", "text": "a copy", "split": "test"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = checked(folder, "data.strict=true")
    assert result.exit_code == 1
    assert findings(tmp_path)["the same image twice, in train and test"] == [f"{lines[0]['file_name']} ~ copy.png"]


def test_where_nothing_is_usable_the_page_says_of_all_files_why(folder, checked, tmp_path):
    names = spoil(folder, 29)
    result = checked(folder)
    assert result.exit_code == 1
    assert "not ready: nothing usable among the 29 seen" in result.stdout
    page = text_of((tmp_path / "out" / "check.html").read_text())
    assert [name for name in names if name not in page] == []
    assert "No image is left to show." in page


def test_images_that_cannot_be_split_are_shown_and_not_ready(tmp_path, checked):
    for number in range(5):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a red square")
    ran = checked(tmp_path, "model.checkpoint=null")
    assert ran.exit_code == 1
    assert "not ready: 5 captioned images, of which some look the same" in " ".join(ran.output.split())
    assert "data.near_duplicates=false" in (tmp_path / "out" / "check.html").read_text()


def test_without_a_tokenizer_the_rest_is_checked(folder, checked, tmp_path):
    (tmp_path / "no checkpoint").mkdir()
    result = checked(folder, f"model.checkpoint={tmp_path / 'no checkpoint'}")
    assert result.exit_code == 0, result.output
    verdict = json.loads((tmp_path / "out" / "check.json").read_text())["verdict"]
    assert verdict.startswith(
        "ready: 29 images, nothing left out; captions weren't measured against a tokenizer: model.checkpoint="
    )


def test_captions_are_measured_by_the_tokenizer_of_the_checkpoint(folder, checkpoint, checked, tmp_path):
    (folder / "red-on-blue.txt").write_text("")
    line = {"file_name": "red-on-blue.png", "text": "a red square on blue " * 9}
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert checked(folder, f"model.checkpoint={checkpoint}", "data.max_caption_tokens=40").exit_code == 0
    assert findings(tmp_path)["caption longer than data.max_caption_tokens=40, which is cut there"] == [
        "red-on-blue.png"
    ]


def test_hostile_names_and_captions_are_only_words(folder, checked, tmp_path):
    name = "<script>alert(3)<\u2215script>&[bold]\x1b[31m.png"
    shutil.move(folder / "red-on-blue.png", folder / name)
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": name, "text": HOSTILE}) + "\n")
        file.write(json.dumps({"file_name": "<b>no image<\u2215b>\x1b[31m.png", "text": HOSTILE}) + "\n")
    (folder / "<b>no image<\u2215b>\x1b[31m.png").touch()
    result = checked(folder, "data.max_bad_share=0")  # so that the verdict names what is left out
    assert result.exit_code == 1, result.output
    assert name in findings(tmp_path)["caption with HTML"]
    assert "\x1b[31m" not in result.stdout
    page = (tmp_path / "out" / "check.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<b>no" not in page
    assert "<script>alert(1)</script>" in text_of(page)
    assert "{{ 7 * 7 }}" in text_of(page)


def test_the_splits_can_be_fed_back(folder, checked, tmp_path):
    checked(folder)
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    shutil.move(tmp_path / "out", tmp_path / "first")
    result = checked(folder, f"data.splits_from={tmp_path / 'first'}", "data.split_seed=7")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "splits.json").read_text()) == splits


def test_a_image_that_the_given_splits_leave_out_is_counted_as_left_out(folder, checked, tmp_path):
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "red-on-blue.png", "text": "a <b>red</b> square"}) + "\n")
    names = sorted(path.name for path in folder.glob("*.png"))
    others = [name for name in names if name != "red-on-blue.png"]
    splits = {"train": others[:20], "val": others[20:24], "test": others[24:]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    result = checked(folder, f"data.splits_from={tmp_path / 'splits.json'}")
    assert result.exit_code == 0, result.output
    assert "ready, with 1 of 29 left out" in result.stdout
    assert findings(tmp_path)["caption with HTML"] == ["red-on-blue.png"]
    assert "Images 28 that can be used" in text_of((tmp_path / "out" / "check.html").read_text())


def test_a_check_of_the_same_folder_replaces_the_one_before(folder, checked, tmp_path):
    spoil(folder, 29)
    checked(folder)
    shutil.rmtree(folder)
    (tmp_path / "out" / "splits.json").touch()
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    (spoilt / "a.png").write_text("no image")
    (spoilt / "a.txt").write_text("a cat")
    checked(spoilt)
    assert not (tmp_path / "out" / "splits.json").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["data.max_bad_shar=1"], "data.max_bad_shar=1: no such setting; did you mean data.max_bad_share?"),
        (["data.path=/nowhere"], "data.path=/nowhere: "),
        (["hydra.run.dir=x"], "hydra.run.dir=x: where results go is given by --output-dir DIR"),
        (["data.max_bad_share=2"], "data.max_bad_share "),
    ],
)
def test_a_mistake_is_answered_in_one_line(folder, checked, tmp_path, settings, line):
    result = checked(folder, *settings)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_overwritten(folder, checked, tmp_path):
    (tmp_path / "out" / ".hydra").mkdir(parents=True)
    result = checked(folder)
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: --output-dir {tmp_path / 'out'}: holds a run; take another folder\n",
    )


# ------------------------------------------------------------ the page


def page_of(count: int, *, issues: list[RowIssue] | None = None, pairs: list[tuple[int, int]] | None = None) -> str:
    """The page of images that are all noise, each with five captions."""
    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    ids = [f"folder/image-{number:06}.jpg" for number in range(count)]
    captions = [[f"<b>caption</b> {number} of {name} {HOSTILE}" for number in range(5)] for name in ids]
    none = [None] * count
    rows = make_rows(ids=ids, images=none, captions=captions, splits=none, issues=issues or [])
    facts = [ImageInfo("", str(number), 100 + number % 900, 128, "CMYK", True, 2) for number in range(count)]
    splits = {"train": list(range(0, count, 2)), "val": list(range(1, count, 2))}
    found = find_issues(rows, facts, splits, pairs or [], tokenizer=None, max_caption_tokens=9)
    report = DataReport(rows, facts, splits, pairs or [], found, count + len(rows.issues))
    limits = {"strict": False, "max_bad_share": 0.1}
    return render_check(
        Check(
            report=report,
            splits=summarize(rows, [(fact.width, fact.height) for fact in facts], splits)["splits"],
            verdict=report.summary(**limits),
            ready=report.blocking_reason(**limits) is None,
            data=HOSTILE,
            command="captioning check",
            image=lambda row: noise,
        )
    )


@pytest.fixture(scope="module")
def large_page() -> str:
    problems = [RowIssue("image can't be read: empty file", f"folder/lost-{number:06}.jpg") for number in range(1000)]
    return page_of(9000, issues=problems, pairs=[(number, number + 1 + number % 2) for number in range(2000)])


def test_the_page_of_ten_thousand_images_is_small(large_page):
    assert len(large_page.encode()) < 3_000_000


def test_all_names_of_what_is_left_out_are_in_the_page(large_page):
    assert large_page.count("folder/lost-") >= 1000


def test_of_pairs_the_first_twenty_are_shown_and_the_rest_counted(large_page):
    leaks = large_page.partition('id="leaks"')[2].partition("</section>")[0]
    assert leaks.count('class="pair"') == 20
    assert "and 981 more; check.json names all of them" in text_of(f"<body>{leaks}")


def test_the_page_names_no_address_elsewhere(large_page):
    tags = "".join(re.findall(r"<[^>]*>", large_page.partition("<body>")[2]))
    assert set(re.findall(r'(?:src|href)="([a-z]+:|#)', tags)) == {"data:", "#"}
    assert not re.findall(r"<link|@import|url\((?!#)|<script", large_page)


@pytest.mark.parametrize(
    ("problems", "state", "word"), [(0, "good", "Ready"), (1, "fair", "Ready"), (9, "bad", "Not ready")]
)
def test_the_verdict_stands_at_the_top_in_colour_and_in_words(problems, state, word):
    page = page_of(20, issues=[RowIssue("empty file", str(number)) for number in range(problems)])
    assert f'class="verdict {state}" role="status"><strong>{word}</strong>' in page
    assert text_of(page).index(word) < text_of(page).index("Splits")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    if chromium.EXECUTABLE is None:
        pytest.skip("no Chromium here")
    browser = chromium.Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_any_screen_and_loads_without_a_complaint(large_page, browser, tmp_path, width):
    (tmp_path / "check.html").write_text(large_page)
    browser.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    browser.open(tmp_path / "check.html")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert [m for m in browser.messages if m["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
