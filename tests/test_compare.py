import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from captioning.errors import UserError
from captioning.runs import comparison_table
from captioning.runs.comparison import compare

COMMAND = Path(sys.executable).with_name("captioning")
# Images 0 to 49 with captions of four words, no word in two of them: a caption with k words wrong has a WER of k / 4.
TRUTHS = [f"red{i} cat{i} on{i} sofa{i}" for i in range(50)]


def make_run(folder: Path, captions, references=TRUTHS, *, ids=None, **files) -> Path:
    """A run folder with these captions of the first images (or of ``ids``), and further files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"id": f"{image}.png", "references": [truth] if isinstance(truth, str) else truth, "prediction": caption}
        for image, truth, caption in zip(ids or range(len(captions)), references, captions, strict=False)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def make_config(folder: Path, text: str) -> None:
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(text)


def misspelt(caption: str, words: int = 1) -> str:
    """A caption with that many of its words wrong."""
    return " ".join([*["x"] * words, *caption.split()[words:]])


def wer(*folders, **settings):
    """The difference of the second run's word error rate from the first one's."""
    return compare(folders, **settings).runs[1].differences["wer"]


def run_command(*arguments):
    environment = os.environ | {"COLUMNS": "80", "PYTHONUTF8": "1"}  # which counts for a terminal only
    return subprocess.run(
        [COMMAND, "compare", *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
    )


def error_of(*arguments) -> str:
    """The one line on standard error with which a mistake ends."""
    ran = run_command(*arguments)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    return ran.stderr.rstrip("\n")


@pytest.fixture
def right(tmp_path):
    return make_run(tmp_path / "right", TRUTHS)


@pytest.fixture
def wrong(tmp_path):
    return make_run(tmp_path / "wrong", ["x x x x"] * 50)


# Verdicts.


def test_wrong_everywhere_is_worse_than_right_everywhere(right, wrong):
    difference = wer(right, wrong)
    assert (difference.value, difference.ci95, difference.p) == (1.0, (1.0, 1.0), 2 / 2001)
    assert difference.verdict == "worse"


def test_right_everywhere_is_better_than_wrong_everywhere(right, wrong):
    assert wer(wrong, right).verdict == "better"


def test_the_direction_of_the_metric_decides_what_is_better(right, wrong):
    differences = compare([right, wrong]).runs[1].differences
    assert (differences["exact_match"].value, differences["exact_match"].verdict) == (-1.0, "worse")


def test_a_metric_without_a_direction_only_differs(right, tmp_path):
    longer = make_run(tmp_path / "longer", [f"{truth} x" for truth in TRUTHS])
    length_ratio = compare([right, longer]).runs[1].differences["length_ratio"]
    assert (length_ratio.value, length_ratio.verdict) == (0.25, "differs")


def test_a_copied_run_has_the_same_captions_in_every_metric(right, tmp_path):
    copied = make_run(tmp_path / "copied", TRUTHS)
    differences = compare([right, copied]).runs[1].differences.values()
    assert {(d.value, d.ci95, d.p, d.verdict) for d in differences} == {(0.0, (0.0, 0.0), 1.0, "same captions")}


def test_captions_that_differ_in_case_and_punctuation_are_the_same(right, tmp_path):
    shouted = make_run(tmp_path / "shouted", [f"{truth.upper()}!" for truth in TRUTHS])
    assert wer(right, shouted).verdict == "same captions"


def test_one_caption_of_fifty_makes_no_difference(right, tmp_path):
    other = make_run(tmp_path / "other", [misspelt(TRUTHS[0]), *TRUTHS[1:]])
    assert wer(right, other).verdict == "no difference found"


@pytest.mark.parametrize(("changed", "p", "verdict"), [(5, 1 / 16, "no difference found"), (6, 1 / 32, "worse")])
def test_few_captions_are_judged_as_by_a_sign_test(right, tmp_path, changed, p, verdict):
    other = make_run(tmp_path / "other", [misspelt(truth) for truth in TRUTHS[:changed]] + TRUTHS[changed:])
    assert (wer(right, other).p, wer(right, other).verdict) == (p, verdict)


def test_of_many_other_captions_only_those_that_change_a_number_count_for_it(tmp_path):
    # In all of 20 images the wrong word is another one, but only in four of them one more is wrong.
    before = make_run(tmp_path / "before", [misspelt(truth) for truth in TRUTHS[:20]] + TRUTHS[20:])
    reworded = [misspelt(truth, 2 if number < 4 else 1).replace("x", "y") for number, truth in enumerate(TRUTHS[:20])]
    after = make_run(tmp_path / "after", reworded + TRUTHS[20:])
    assert compare([before, after]).runs[1].changed_captions == 20
    assert wer(before, after).p >= 1 / 8


def test_p_is_twice_the_chance_that_a_resample_shows_no_difference(tmp_path):
    # Seven captions get a word right and one gets three words wrong. A resample of 8 shows no gain if it holds that one
    # at least twice: 1 - (7/8)^8 - (7/8)^7 = 0.264.
    before = make_run(tmp_path / "before", [misspelt(truth) for truth in TRUTHS[:7]] + [TRUTHS[7]])
    after = make_run(tmp_path / "after", [*TRUTHS[:7], misspelt(TRUTHS[7], 3)])
    assert wer(before, after).p == pytest.approx(2 * 0.264, abs=0.03)


def test_changes_that_cancel_out_are_no_difference_at_all(tmp_path):
    one = make_run(tmp_path / "one", [misspelt(truth) for truth in TRUTHS[:5]] + TRUTHS[5:10])
    other = make_run(tmp_path / "other", TRUTHS[:5] + [misspelt(truth) for truth in TRUTHS[5:10]])
    assert (wer(one, other).value, wer(one, other).p) == (0.0, 1.0)


def test_a_difference_that_both_intervals_cover_is_found_by_pairing(tmp_path):
    # Half of the images are beyond either run; of the others one run has a word wrong in each third.
    hopeless = ["x x x x"] * 25
    one = make_run(tmp_path / "one", hopeless + TRUTHS[25:])
    other = make_run(tmp_path / "other", hopeless + [misspelt(TRUTHS[i], int(i % 3 == 0)) for i in range(25, 50)])
    compared = compare([one, other])
    low, high = compared.runs[0].numbers["wer"].ci95
    assert low < compared.runs[1].numbers["wer"].value < high
    assert compared.runs[1].differences["wer"].verdict == "worse"


def test_runs_that_are_equally_good_seldom_differ(tmp_path):
    chance = random.Random(0)
    found = 0
    for _ in range(200):
        for name in ("one", "other"):
            make_run(tmp_path / name, [misspelt(truth, chance.choice([0, 0, 0, 1, 2])) for truth in TRUTHS[:40]])
        found += wer(tmp_path / "one", tmp_path / "other", captions=0).verdict != "no difference found"
    assert 0.01 < found / 200 < 0.12


def test_of_a_single_image_nothing_follows(tmp_path):
    folders = [make_run(tmp_path / "one", TRUTHS[:1]), make_run(tmp_path / "other", ["x x x x"])]
    difference = wer(*folders)
    assert (difference.value, difference.ci95, difference.p) == (1.0, None, None)
    assert difference.verdict == "too few images"


# What is compared.


def test_runs_are_judged_on_the_images_that_all_of_them_have(tmp_path):
    # Of images 0 to 9 and 5 to 14, the common ones are right in one run and wrong in the other.
    one = make_run(tmp_path / "one", ["x x x x"] * 5 + TRUTHS[5:10])
    other = make_run(tmp_path / "other", ["x x x x"] * 5 + TRUTHS[10:15], TRUTHS[5:15], ids=range(5, 15))
    compared = compare([one, other])
    assert compared.images == 5
    assert [run.left_out for run in compared.runs] == [5, 5]
    assert [run.numbers["wer"].value for run in compared.runs] == [0.0, 1.0]


def test_the_order_of_the_lines_changes_nothing(right, tmp_path):
    backwards = make_run(tmp_path / "backwards", TRUTHS[::-1], TRUTHS[::-1], ids=range(49, -1, -1))
    assert wer(right, backwards).verdict == "same captions"


def test_where_references_differ_the_first_runs_count_and_that_is_said(right, tmp_path):
    other = make_run(tmp_path / "other", TRUTHS, ["another caption", *TRUTHS[1:]])
    compared = compare([right, other])
    assert compared.runs[1].numbers["wer"].value == 0.0
    assert any("references of 1 of the images differ" in warning for warning in compared.warnings)


def test_references_in_another_order_are_the_same(tmp_path):
    one = make_run(tmp_path / "one", ["a"], [["a", "b"]])
    other = make_run(tmp_path / "other", ["a"], [["b", "a"]])
    assert not any("references" in warning for warning in compare([one, other]).warnings)


def test_teacher_forced_numbers_are_shown_where_the_images_are_the_same(tmp_path):
    metrics = {"test/loss": 0.5, "test/token_accuracy": float("nan"), "val/loss": 0.25, "test/wer": 0.75}
    one, other = (make_run(tmp_path / name, TRUTHS, metrics=metrics) for name in ("one", "other"))
    assert compare([one, other]).runs[0].teacher_forced == {"loss": 0.5}


def test_teacher_forced_numbers_of_different_images_are_not_shown(right, tmp_path):
    fewer = make_run(tmp_path / "fewer", TRUTHS[:40], metrics={"test/loss": 0.5})
    assert compare([right, fewer]).runs[1].teacher_forced == {}


def test_settings_that_differ_stand_side_by_side(right, wrong):
    make_config(right, "model: {lr: 2.0e-5, beams: 1}\nsame: [1, 2]\npath: ${oc.env:HOME}\nempty: ''\n")
    make_config(wrong, "model: {lr: 5.0e-5}\nsame: [1, 2]\npath: a\nempty: null\n")
    assert compare([right, wrong]).settings == {
        "model.lr": ["2e-05", "5e-05"],
        "model.beams": ["1", None],
        "path": ["${oc.env:HOME}", "a"],
        "empty": ['""', "null"],
    }


def test_a_run_without_settings_has_none_to_differ(right, wrong, tmp_path):
    make_config(right, "seed: 1\nsame: 1\n")
    make_config(wrong, "seed: 2\nsame: 1\n")
    compared = compare([right, wrong, make_run(tmp_path / "bare", TRUTHS)])
    assert compared.settings == {"seed": ["1", "2", None]}
    assert "there is no .hydra/config.yaml in bare; it isn't compared." in compared.warnings


def test_of_the_environment_only_what_decides_numbers_is_compared(tmp_path):
    one = {"git": {"commit": "a"}, "packages": {"torch": "2.13.0"}, "hostname": "here", "devices": "1 x cpu"}
    other = {"git": {"commit": "b"}, "packages": {"torch": "2.14.0"}, "hostname": "there", "devices": "1 x cpu"}
    folders = [
        make_run(tmp_path / "one", TRUTHS, environment=one),
        make_run(tmp_path / "other", TRUTHS, environment=other),
    ]
    assert compare(folders).environment == {"git.commit": ["a", "b"], "packages.torch": ["2.13.0", "2.14.0"]}


@pytest.mark.parametrize(("fingerprint", "warned"), [("b", True), ("a", False)])
def test_different_data_are_warned_of(tmp_path, fingerprint, warned):
    one = make_run(tmp_path / "one", TRUTHS, environment={"data_fingerprint": "a"})
    other = make_run(tmp_path / "other", TRUTHS, environment={"data_fingerprint": fingerprint})
    assert any("different data" in warning for warning in compare([one, other]).warnings) is warned


# The captions that changed most.


def test_the_captions_that_changed_most_come_first(tmp_path):
    wrong_words = {"one": [0, 0, 3, 1, 2, 1], "other": [1, 4, 0, 0, 2, 0]}
    folders = [
        make_run(tmp_path / name, [misspelt(truth, count) for truth, count in zip(TRUTHS, counts, strict=False)])
        for name, counts in wrong_words.items()
    ]
    run = compare(folders, captions=2).runs[1]
    assert [(change.id, change.values) for change in run.improved] == [("2.png", (0.75, 0)), ("3.png", (0.25, 0))]
    assert [(change.id, change.values) for change in run.worsened] == [("1.png", (0, 1)), ("0.png", (0, 0.25))]
    assert run.worsened[0].captions == (TRUTHS[1], "x x x x")


def test_captions_that_did_not_change_are_not_shown(right, tmp_path):
    other = make_run(tmp_path / "other", [misspelt(TRUTHS[0]), *TRUTHS[1:]])
    run = compare([right, other]).runs[1]
    assert (run.improved, [change.id for change in run.worsened]) == ([], ["0.png"])


def test_captions_are_ranked_by_the_metric_that_is_asked_for(right, wrong):
    run = compare([right, wrong], metric="exact_match", captions=1).runs[1]
    assert run.improved == []
    assert [change.values for change in run.worsened] == [(1.0, 0.0)]


def test_of_several_references_the_one_nearest_to_the_better_caption_is_shown(tmp_path):
    references = [["a dog", "a red cat"]]
    one = make_run(tmp_path / "one", ["a dig"], references)
    other = make_run(tmp_path / "other", ["a red cat"], references)
    assert compare([one, other]).runs[1].improved[0].reference == "a red cat"
    assert compare([other, one]).runs[1].worsened[0].reference == "a red cat"


# Names.


@pytest.mark.parametrize(
    ("paths", "names"),
    [(("day/10", "day/11"), ["10", "11"]), (("a/run", "b/run", "c"), ["a/run", "b/run", "{top}/c"])],
)
def test_runs_are_named_by_as_much_of_their_paths_as_tells_them_apart(tmp_path, paths, names):
    folders = [make_run(tmp_path / path, TRUTHS[:2]) for path in paths]
    assert [run.name for run in compare(folders).runs] == [name.format(top=tmp_path.name) for name in names]


# What is printed.


def test_two_runs_stand_in_one_table_with_the_verdict(right, wrong):
    row = next(line for line in run_command(right, wrong).stdout.splitlines() if line.startswith("wer"))
    expected = "wer ↓ 0.000 [0.000,0.000] 1.000 [1.000,1.000] +1.000 [+1.000,+1.000] worse, p=0.001"
    assert " ".join(row.split()) == expected


def test_of_several_runs_each_is_judged_against_the_first(right, wrong, tmp_path):
    printed = run_command(right, wrong, make_run(tmp_path / "copied", TRUTHS)).stdout
    tables = [line for line in printed.splitlines() if line.startswith("test ")]
    assert [table.split() for table in tables] == [
        ["test", "right", "wrong", "difference", "verdict"],
        ["test", "right", "copied", "difference", "verdict"],
    ]


def test_nothing_is_cut_or_wrapped_in_a_pipe(right, wrong):
    make_config(right, f"path: {'a' * 200}\n")
    make_config(wrong, f"path: {'b' * 200}\n")
    printed = run_command(right, wrong).stdout
    assert re.search(r"^path +a{200} +b{200}$", printed, re.MULTILINE)


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_cut_off_or_runs_over_the_edge_of_a_terminal(right, wrong, columns, monkeypatch, capsys):
    make_config(right, f"path: {'a' * 200}\n")
    make_config(wrong, f"path: {'b' * 200}\n")
    terminal = Console(markup=False, emoji=False, highlight=False, width=columns)
    monkeypatch.setattr(comparison_table, "plain_console", lambda: terminal)
    comparison_table.print_comparison(compare([right, wrong]))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
    assert "…" not in printed.replace("[…]", "")  # which explains the notation of intervals
    assert "vocabulary_coverage ↑" in printed
    assert "[+1.000,+1.000]" in printed


def test_a_caption_is_shown_as_it_is(right, tmp_path):
    caption = r"[red]a :cat: [/] on [link=x]y\[/red]"
    odd = make_run(tmp_path / "odd", [caption, *TRUTHS[1:]])
    assert f"odd        {caption}" in run_command(right, odd).stdout


def test_a_caption_does_not_command_the_terminal(right, tmp_path):
    odd = make_run(tmp_path / "odd", ["a \x1b[2J\ncat", *TRUTHS[1:]])
    assert "odd        a  [2J cat" in run_command(right, odd).stdout


def test_everything_is_written_as_json(right, wrong, tmp_path):
    make_config(right, "rate: .nan\n")
    make_config(wrong, "rate: .inf\n")
    assert run_command(right, wrong, "--captions", "1", "--json", tmp_path / "all.json").returncode == 0

    def refuse(constant):
        pytest.fail(f"{constant} isn't JSON")

    written = json.loads((tmp_path / "all.json").read_text(), parse_constant=refuse)
    assert (written["images"], written["settings"]) == (50, {"rate": ["NaN", "Infinity"]})
    wer = {"value": 1.0, "ci95": [1.0, 1.0], "p": 2 / 2001, "verdict": "worse"}
    assert written["runs"][1]["differences"]["wer"] == wer
    assert len(written["runs"][1]["worsened"]) == 1


# Mistakes.


def test_a_folder_that_is_missing_is_named(right):
    assert error_of(right, "nowhere").startswith("error: nowhere: no such folder")


def test_a_run_without_predictions_is_named(right, tmp_path):
    (tmp_path / "untested").mkdir()
    assert "untested: has no predictions.jsonl" in error_of(right, tmp_path / "untested")


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ('{"id": "2.png", "refer', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"id": "2.png", "references": ["a"]}', "not an object with id, prediction, references"),
        ('{"id": "2.png", "references": [], "prediction": "a"}', "references a list of texts"),
        ('{"id": "2.png", "references": [1], "prediction": "a"}', "references a list of texts"),
        ('{"id": "2.png", "references": "a cat", "prediction": "a"}', "references a list of texts"),
        ('{"id": ["2"], "references": ["a"], "prediction": "a"}', "must be text"),
        ('{"id": "0.png", "references": ["a"], "prediction": "a"}', "0.png is there twice"),
    ],
)
def test_a_line_that_cannot_be_judged_is_named_by_its_number(right, tmp_path, line, trouble):
    other = make_run(tmp_path / "other", TRUTHS[:2])
    with (other / "predictions.jsonl").open("a", errors="surrogateescape") as lines:
        lines.write(line)
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 3: ") as mistake:
        compare([right, other])
    assert trouble in str(mistake.value)


@pytest.mark.parametrize("name", ["metrics.json", "environment.json", ".hydra/config.yaml"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_another_file_that_is_damaged_is_named(right, wrong, name, content):
    (wrong / ".hydra").mkdir()
    (wrong / name).write_text(content)
    with pytest.raises(UserError, match=f"^{wrong / name}: not (JSON|YAML|a mapping)") as mistake:
        compare([right, wrong])
    assert "\n" not in str(mistake.value)


def test_runs_without_a_common_image_do_not_compare(right, tmp_path):
    other = make_run(tmp_path / "other", TRUTHS[:2], ids=[50, 51])
    assert "none of its test images" in error_of(right, other)


def test_one_run_is_too_few(right):
    assert "give two or more" in error_of(right)


def test_a_run_is_not_compared_with_itself(right):
    assert "given twice" in error_of(right, right / ".." / "right")


@pytest.mark.parametrize(("metric", "way_out"), [("wr", "did you mean wer?"), ("length_ratio", "there are: bleu1")])
def test_a_metric_that_captions_cannot_be_ranked_by_is_named_with_the_nearest(right, wrong, metric, way_out):
    line = error_of(right, wrong, "--metric", metric)
    assert line.startswith(f"error: --metric {metric}: ")
    assert way_out in line


def test_a_json_file_in_a_missing_folder_is_refused(right, wrong, tmp_path):
    assert "--json" in error_of(right, wrong, "--json", tmp_path / "missing" / "all.json")


def test_comparing_imports_nothing_that_takes_seconds():
    code = (
        "import captioning.runs.comparison_table, captioning.runs.run_folder, sys\n"
        "print({'torch', 'lightning', 'transformers', 'hydra', 'omegaconf', 'pyarrow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
