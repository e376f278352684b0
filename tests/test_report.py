import html
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import chromium
import numpy as np
import pytest
from example_run import drawing, jpeg, write_example_run, write_lines, write_thumbnails
from PIL import Image

from captioning.errors import UserError
from captioning.metrics import HIGHER_IS_BETTER
from captioning.metrics.metric_info import METRIC_INFO
from captioning.runs.report.captions import caption_rows, chosen, clipped, differences, frequent_captions
from captioning.runs.report.numbers import shown
from captioning.runs.report.page import write_report
from captioning.runs.run_folder import RunFolder

STYLE = Path(sys.modules["captioning.runs.report"].__file__ or "").with_name("style.css")


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_run(tmp_path_factory.mktemp("example") / "run")


@pytest.fixture
def run(example: Path, tmp_path: Path) -> Path:
    """A whole run folder to be changed: 8 test images, 60 steps, 4 validations of 6 images."""
    return Path(shutil.copytree(example, tmp_path / "run"))


def page_of(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def text_of(run: Path) -> str:
    """What a page says, tags left out and spaces made one."""
    body = page_of(run).partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<script>.*?</script>|<[^>]*>", " ", body, flags=re.DOTALL)).split())


def give(run: Path, *pairs: tuple[str, list[str]]) -> None:
    """Put other test captions into a run: predictions and their references."""
    lines = [{"id": f"{i}.png", "references": truths, "prediction": said} for i, (said, truths) in enumerate(pairs)]
    write_lines(run / "predictions.jsonl", lines)


# ------------------------------------------------------------ the file


def test_a_report_names_no_address_elsewhere(run):
    page = page_of(run)
    assert not re.findall(r"https?:|[\"'(]//|<link|@import|url\((?!#)", page)
    assert set(re.findall(r'src="([a-z]+:)', page)) == {"data:"}


def test_the_same_run_gives_the_same_report(run):
    assert page_of(run) == page_of(run)


def test_a_report_leaves_nothing_else_behind(run):
    before = {path.name for path in run.iterdir()}
    write_report(run)
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("milk")
    with pytest.raises(UserError, match=rf"^{tmp_path}: no run folder.*name one, such as outputs/DATE/TIME$"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (".hydra/config.yaml", "the run was started from Python"),
        (".hydra/overrides.yaml", "the run was started from Python"),
        ("environment.json", "the run ended before its training began"),
        ("data.json", "the run ended before its training began"),
        ("metrics.csv", "the csv logger was off"),
        ("metrics.json", "the run ended before its test"),
        ("predictions.jsonl", "the run ended before its test"),
        ("gallery.jsonl", "there was no validation yet"),
        ("thumbnails.parquet", "the run ended before its test"),
    ],
)
def test_a_missing_file_is_named_with_the_likely_reason(run, name, sentence):
    (run / name).unlink()
    assert f"{name} is missing: {sentence}" in text_of(run)


@pytest.mark.parametrize("name", ["splits.json", "alarms.jsonl"])
def test_a_missing_file_without_a_section_is_not_missed(run, name):
    (run / name).unlink()
    assert "is missing" not in text_of(run)


@pytest.mark.parametrize("name", ["metrics.json", "metrics.csv", "predictions.jsonl", "thumbnails.parquet"])
def test_one_file_is_enough_for_a_report(run, tmp_path, name):
    (tmp_path / "alone").mkdir()
    shutil.copy(run / name, tmp_path / "alone")
    assert "data.json is missing" in text_of(tmp_path / "alone")


BROKEN = [
    *((name, "{[\n") for name in (".hydra/overrides.yaml", "metrics.json", "gallery.jsonl", "thumbnails.parquet")),
    *((name, "[1]\n") for name in (".hydra/config.yaml", "environment.json", "data.json", "metrics.json")),
    *((name, "[1]\n") for name in ("gallery.jsonl", "alarms.jsonl")),
    (".hydra/overrides.yaml", "model: x\n"),
    ("gallery.jsonl", '{"step": 3}\n'),
    ("metrics.csv", "step,train/loss\n1,abc\n2,3\n"),
]


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_a_broken_file_is_named(run, name, content):
    (run / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}(, line 1)?: not .*; remove the file to do without it"):
        write_report(run)


@pytest.mark.parametrize("name", ["gallery.jsonl", "metrics.csv", "predictions.jsonl", "alarms.jsonl"])
def test_a_file_without_a_line_yet_is_no_mistake(run, name):
    (run / name).write_text("")
    assert "is missing" not in text_of(run)


def test_a_line_that_is_still_being_written_is_left_out(run):
    (run / "metrics.csv").write_text("step,train/loss\n1,3.0\n2,2.0\n3,1")
    curves = RunFolder(run).curves
    assert curves is not None
    assert curves["train/loss"].values.tolist() == [3.0, 2.0]


def test_a_step_taken_again_by_a_resumed_run_counts_as_the_last(run):
    (run / "metrics.csv").write_text("step,train/loss\n1,3.0\n2,2.0\n3,9.0\n2,1.5\n3,1.0\n")
    curves = RunFolder(run).curves
    assert curves is not None
    assert curves["train/loss"].values.tolist() == [3.0, 1.5, 1.0]


def test_a_report_starts_fast():
    code = (
        "import sys, captioning.runs.report.page\n"
        "print({'torch', 'lightning', 'transformers', 'hydra', 'omegaconf', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_five_hundred_images_are_written_in_seconds_to_less_than_5_mb(tmp_path):
    run = write_example_run(tmp_path / "run", test=500, steps=5000, validations=20)
    noise = np.random.default_rng(0).integers(0, 256, size=(501, 40, 40, 3), dtype=np.uint8)
    photos = [jpeg(Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC)) for pixels in noise]
    assert sum(map(len, photos)) > 4e6  # more than fits as it is
    write_thumbnails(
        run / "thumbnails.parquet", [("test", f"image-{i:03}.png", photo) for i, photo in enumerate(photos)]
    )
    start = time.process_time()  # other processes may be using the cores
    report = write_report(run)
    assert time.process_time() - start < 10
    assert report.stat().st_size < 5e6
    assert report.read_bytes().count(b'alt="image ') == 500


# ------------------------------------------------------------ what it says


def test_the_head_says_what_was_run(run):
    text = text_of(run)
    for fact in (
        "git-tiny, from random weights",
        "creatures",
        "quickstart",
        "2026-03-14 15:09",
        "1 x cuda, bf16-mixed",
    ):
        assert fact in text


def test_a_model_that_the_experiment_chose_is_named(run):
    (run / ".hydra/overrides.yaml").write_text("- experiment=quickstart\n")
    (run / ".hydra/hydra.yaml").write_text("hydra: {runtime: {choices: {model: git-small}}}\n")
    assert "git-small, from random weights" in text_of(run)


def test_the_title_says_what_the_run_is(run):
    assert "<title>git-tiny on creatures" in page_of(run)


def test_code_that_was_changed_is_said_to_be(run):
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"git": {"commit": "abc", "clean": False}}))
    assert "with changes that were not committed" in text_of(run)


def test_alarms_of_a_kind_are_one_line_with_the_latest_message(run):
    alarm = {"split": "val", "kind": "silence", "message": "2 captions are empty"}
    write_lines(run / "alarms.jsonl", [alarm | {"step": 10}, alarm | {"step": 30, "message": "9 captions are empty"}])
    text = text_of(run)
    assert "silence val, 2 times, at steps 10 to 30 9 captions are empty" in text
    assert "2 captions are empty" not in text


def test_every_number_is_explained():
    assert set(METRIC_INFO) == set(HIGHER_IS_BETTER)


def test_a_number_stands_with_its_interval_and_validation(run):
    (run / "metrics.json").write_text('{"test/wer": 0.25, "test/wer_ci95": [0.2, 0.3], "val/wer": 0.125}')
    assert "0 upwards, lower is better 0.250 0.200 \N{EN DASH} 0.300 0.125" in text_of(run)


@pytest.mark.parametrize(
    ("metrics", "note"),
    [
        ('{"test/loss": NaN}', "test/loss: nan, not a number"),
        ('{"test/loss": 1.0, "val/loss": Infinity}', "val/loss: inf, not a number"),
        ('{"test/cider": null}', "test/cider: None, not a number"),
        (
            '{"test/loss": null, "notes": {"test/loss": "was nan: too high a rate"}}',
            "test/loss: was nan: too high a rate",
        ),
    ],
)
def test_a_number_that_is_missing_has_its_reason(run, metrics, note):
    (run / "metrics.json").write_text(metrics)
    assert note in text_of(run)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.0414, "0.041"), (2e-5, "<0.001"), (12345.6, "12,346"), (None, "\N{EN DASH}")],
)
def test_numbers_are_written_in_few_digits(value, text):
    assert shown(value) == text


def test_values_that_are_not_finite_are_counted(run):
    (run / "metrics.csv").write_text("step,train/loss\n1,3.0\n2,nan\n3,inf\n4,1.0\n")
    assert "train/loss: 2 of 4 values aren't finite, the first at step 3." in text_of(run)


def test_the_commands_to_run_it_again_are_quoted_for_a_shell(run):
    assert "python train.py experiment=quickstart model=git-tiny &#39;+note=two words&#39;" in page_of(run)


def test_an_evaluation_is_run_again_as_one(run):
    command = ["/bin/python", "/bin/captioning", "evaluate", "my run", "--split", "val"]
    (run / "environment.json").write_text(json.dumps({"command": command}))
    assert "captioning evaluate 'my run' --split val" in text_of(run)


def test_what_was_found_of_the_data_is_counted_by_kind(run):
    data = json.loads((run / "data.json").read_text())
    names = [f"{i}.png" for i in range(25)]
    data["findings"] = [{"severity": "left out", "kind": "no caption", "names": names}]
    (run / "data.json").write_text(json.dumps(data))
    assert re.search(r"left out\s*: 25 \S no caption: 0\.png .* and 5 more", text_of(run))


# ------------------------------------------------------------ captions


def marked(prediction: str, reference: str) -> tuple[str, str]:
    mine, theirs = differences(prediction, reference)
    first, second = ("".join(f"[{p.text}]" if p.differs else p.text for p in parts) for parts in (mine, theirs))
    return first, second


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("a red dog", "a red cat", ("a red [dog]", "a red [cat]")),
        ("a dog", "A dog.", ("a dog", "A dog.")),
        ("a t - shirt", "a t-shirt", ("a t - shirt", "a t-shirt")),
        ("", "a dog", ("", "[a] [dog]")),
        ("a dog a dog", "a dog", ("a dog [a] [dog]", "a dog")),
        ("a dog - cat", "a fox - cow", ("a [dog] - [cat]", "a [fox] - [cow]")),
        ("x " * 151, "y", ("[x] " * 149 + "[x] … (151 words)", "[y]")),
        ("猫在上", "猫在下", ("猫在[上]", "猫在[下]")),
    ],
)
def test_words_that_differ_are_marked(prediction, reference, expected):
    assert marked(prediction, reference) == expected


def test_differences_are_to_the_nearest_reference():
    row = caption_rows([{"id": "x", "references": ["two cats asleep", "a dog"], "prediction": "a dog"}])[0]
    assert ["".join(part.text for part in reference) for reference in row.references] == ["a dog", "two cats asleep"]
    assert row.exact


def test_of_many_images_the_worst_the_best_and_some_between_are_shown():
    numbers = chosen(list(range(1000)))
    assert len(numbers) == 500
    assert numbers[:200] == list(range(200))
    assert numbers[-100:] == list(range(900, 1000))
    assert (numbers[200], numbers[201], numbers[399]) == (200, 204, 899)


def test_rows_start_with_the_worst_caption():
    lines = [{"id": name, "references": ["a dog"], "prediction": said} for name, said in (("x", "a dog"), ("y", "dog"))]
    assert [row.id for row in caption_rows(lines)] == ["y", "x"]


def test_a_long_caption_is_clipped_with_its_number_of_words():
    assert clipped("word " * 5000) == "word " * 60 + "… (5,000 words)"


def test_a_long_word_is_clipped():
    assert clipped("w" * 10**6) == "w" * 300 + " … (1 word)"


def test_a_short_caption_is_left_as_it_is():
    assert clipped(" a dog ") == " a dog "


def test_frequent_captions_are_those_said_more_than_once():
    assert frequent_captions(["A dog.", "a cat", "a dog", "a bird"]) == [("a dog", 2, 0.5)]


@pytest.mark.parametrize(
    "pairs",
    [
        [("a dog", ["a dog"])],
        [("", ["a dog"])],
        [("", ["a dog"]), ("", ["a cat"])],
        [("word " * 5000, ["a dog"]), ("a cat", ["word " * 5000])],
        [("…", ["!"]), ("a cat", ["a cat"] * 50)],
        [("\ud83d", ["\udc00 a"]), ("a\x00b", ["\u202ea"])],
    ],
    ids=["one image", "one empty", "all empty", "very long", "no words", "broken letters"],
)
def test_odd_captions_are_reported(run, pairs):
    give(run, *pairs)
    assert f"of {len(pairs)} " in text_of(run) or len(RunFolder(run).predictions or {}) == len(pairs)


def test_few_test_images_are_warned_of(run):
    assert "The test has fewer than 100 images" in text_of(run)


# ------------------------------------------------------------ strangers' words


HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">"\'\u2028'


@pytest.fixture
def hostile_run(run: Path) -> Path:
    write_lines(run / "predictions.jsonl", [{"id": HOSTILE, "references": [HOSTILE], "prediction": HOSTILE + " more"}])
    write_lines(run / "gallery.jsonl", [{"step": 1, "id": HOSTILE, "references": [HOSTILE], "prediction": HOSTILE}])
    write_lines(run / "alarms.jsonl", [{"step": 1, "split": HOSTILE, "kind": HOSTILE, "message": HOSTILE}])
    data = json.loads((run / "data.json").read_text())
    data["findings"] = [{"severity": "notice", "kind": HOSTILE, "names": [HOSTILE]}]
    data["samples"] = [{"split": "train", "id": HOSTILE, "captions": [HOSTILE]}]
    (run / "data.json").write_text(json.dumps(data))
    (run / ".hydra/overrides.yaml").write_text(json.dumps([f"experiment={HOSTILE}"]))
    (run / ".hydra/config.yaml").write_text(json.dumps({"model": {"checkpoint": HOSTILE}, "data": {"path": HOSTILE}}))
    write_thumbnails(
        run / "thumbnails.parquet", [(split, HOSTILE, jpeg(drawing(0)[0])) for split in ("train", "val", "test")]
    )
    return run


def test_words_of_strangers_are_never_markup(hostile_run):
    page = page_of(hostile_run)
    assert page.count("<script") == 1
    assert "<img src=x" not in page


# ------------------------------------------------------------ in a browser


COLUMN = """[...document.querySelectorAll("#caption-table tbody tr:not([hidden])")]
    .map(row => row.cells[%d].textContent.trim())"""


def column(browser: chromium.Chromium, number: int) -> list[str]:
    """The visible cells of a column of the table of captions."""
    cells: list[str] = browser.value(COLUMN % number)
    return cells


def header(name: str) -> str:
    return f'[...document.querySelectorAll("#caption-table th button")].find(b => b.textContent === "{name}")'


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser, run):
    browser.open(write_report(run))
    asked = [m["params"]["request"]["url"] for m in browser.messages if m["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} == {"file", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [m for m in browser.messages if m["method"] in complaints] == []
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.value("document.images.length") == 8 + 6 + 6


def test_no_two_elements_share_an_id(browser, run):
    browser.open(write_report(run))
    ids = browser.value("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) > 20
    assert len(ids) == len(set(ids))


def test_words_of_strangers_are_shown_and_not_run(browser, hostile_run):
    browser.open(write_report(hostile_run))
    assert browser.value("document.title") == f"{HOSTILE} on {HOSTILE} \N{EN DASH} captioning report"
    assert column(browser, 2) == [f"{HOSTILE} more"]
    assert browser.value("document.querySelectorAll('script').length") == 1


def test_a_script_that_came_in_all_the_same_is_refused(browser, run):
    report = write_report(run)
    report.write_text(report.read_text().replace("</main>", "<script>document.title = 'owned'</script></main>"))
    browser.open(report)
    assert browser.value("document.title") != "owned"


@pytest.mark.parametrize(
    ("name", "number"), [("No.", 0), ("WER", 4), ("CIDEr-D", 5), ("Words", 6)], ids=lambda value: str(value)
)
def test_a_click_on_a_header_sorts_by_number(browser, run, name, number):
    browser.open(write_report(run))
    browser.value(f"{header('No.')}.click(); {header('No.')}.click()")  # descending, so that any order shows
    browser.value(f"{header(name)}.click()")
    assert column(browser, number) == sorted(column(browser, number), key=float)
    assert browser.value(f"{header(name)}.closest('th').getAttribute('aria-sort')") == "ascending"
    browser.value(f"{header(name)}.click()")
    assert column(browser, number) == sorted(column(browser, number), key=float, reverse=True)
    assert browser.value("document.querySelectorAll('[aria-sort]').length") == 1


def test_a_header_sorts_by_text(browser, run):
    give(run, ("b", ["b"]), ("A", ["c"]), ("c", ["a"]))
    browser.open(write_report(run))
    browser.value(f"{header('Caption')}.click()")
    assert column(browser, 0) == ["2", "1", "3"]


def test_a_header_is_reached_and_pressed_by_keys(browser, run):
    browser.open(write_report(run))
    browser.value("document.querySelector('#filter').focus()")
    browser.press("Tab")
    browser.press("Enter", text="\r")
    assert column(browser, 0) == [str(number) for number in range(1, 9)]


def test_the_filter_leaves_the_rows_with_a_text(browser, run):
    give(run, ("a dog", ["a dog"]), ("a cat", ["a CAT asleep"]))
    browser.open(write_report(run))
    browser.value("document.querySelector('#filter').focus()")
    browser.do("Input.insertText", text="cat ASLEEP")
    assert column(browser, 0) == ["2"]
    assert browser.value("document.querySelector('#count').textContent") == "1 of 1 shown"


@pytest.mark.parametrize(
    ("choice", "rows"),
    [
        ("all", ["2", "3", "1"]),
        ("worst", ["2", "3", "1"]),
        ("best", ["1", "3", "2"]),
        ("wrong", ["2", "3"]),
        ("empty", ["2"]),
    ],
)
def test_a_choice_shows_its_captions(browser, run, choice, rows):
    give(run, ("a dog", ["a dog"]), ("", ["a cat"]), ("a cow", ["a bird"]))
    browser.open(write_report(run))
    browser.value(f"document.querySelector('[data-choice={choice}]').click()")
    assert column(browser, 0) == rows
    pressed = browser.value("[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.choice)")
    assert pressed == [choice]


def test_more_rows_are_shown_when_asked_for(browser, run):
    give(run, *[("a dog", [f"dog {number}"]) for number in range(60)])
    browser.open(write_report(run))
    assert len(column(browser, 0)) == 50
    browser.value("document.querySelector('#more button').click()")
    assert len(column(browser, 0)) == 60
    assert browser.value("document.querySelector('#more').hidden")


SAID = "[...document.querySelectorAll('.said li:not([hidden])')].map(li => li.firstChild.textContent.trim())"


def test_the_slider_goes_back_in_time_by_keys(browser, run):
    write_lines(
        run / "gallery.jsonl",
        [
            {"step": step, "id": "x", "references": ["a dog"], "prediction": said}
            for step, said in ((1, "a"), (2, "A dog."))
        ],
    )
    browser.open(write_report(run))
    assert browser.value(SAID) == ["A dog."]
    assert browser.value("document.querySelector('#time output').textContent") == "step 2: 1 of 1 equal a reference"
    browser.value("document.querySelector('#step').focus()")
    browser.press("ArrowLeft")
    assert browser.value(SAID) == ["a"]
    assert browser.value("document.querySelector('#time output').textContent") == "step 1: 0 of 1 equal a reference"


def test_without_javascript_the_last_captions_and_all_rows_are_shown(browser, run):
    give(run, *[("a dog", [f"dog {number}"]) for number in range(60)])
    report = write_report(run)
    browser.do("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(report)
    last = [line["prediction"] for line in map(json.loads, (run / "gallery.jsonl").read_text().splitlines())][-6:]
    assert browser.value(SAID) == last
    assert len(column(browser, 0)) == 60
    assert browser.value("[...document.querySelectorAll('.controls')].every(e => !e.checkVisibility())")


def test_a_caption_is_written_in_its_own_direction(browser, run):
    give(run, ("كلب أحمر", ["كلب"]), ("红色的狗 🐕", ["狗"]))
    browser.open(write_report(run))
    directions = browser.value(
        "[...document.querySelectorAll('.prediction')].map(cell => getComputedStyle(cell).direction).sort()"
    )
    assert directions == ["ltr", "rtl"]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_of_a_narrow_page(browser, run, width):
    give(run, ("w" * 300, ["a dog"]), ("a dog " * 100, ["v" * 300]))
    report = write_report(run)
    browser.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(report)
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_colours_of_text_stand_out_from_their_grounds():
    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] if len(color) == 7 else [1.0, 1.0, 1.0]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    themes = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in STYLE.read_text().split("@media screen")[:2]]
    for theme in themes:
        pairs = [(text, ground) for text in ("ink", "muted", "accent", "good") for ground in ("ground", "raised")]
        for text, ground in [*pairs, ("ink", "extra"), ("ink", "missed"), ("ink", "alarm"), ("muted", "alarm")]:
            light, dark = sorted((luminance(theme[text]), luminance(theme[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
