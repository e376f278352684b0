import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import chromium
import pytest
import yaml
from example_sweep import STARTED, write_example_sweep, write_grid, write_job, write_numbers, write_record
from typer.testing import CliRunner

from captioning.cli import app
from captioning.errors import UserError
from captioning.sweeps.page import render_sweep, write_sweep_page
from captioning.sweeps.parallel import parallel
from captioning.sweeps.report import Sweep, as_json, read_sweep, short_names, value_text, write_sweep_report

GRID = {"model.lr": [0.0001, 0.001, 0.01], "model.dropout": [0.0, 0.1, 0.2]}


def score_of(lr: float, dropout: float) -> float:
    """The best with the middle rate, where dropout hardly matters."""
    return {0.0001: 0.5, 0.001: 0.2, 0.01: 0.9}[lr] + dropout / 10


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Jobs 0 to 8, of which 3 is the best."""
    return write_grid(tmp_path / "sweep", GRID, score_of)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six jobs with all that a run leaves, of which 4 is the best, and one that failed."""
    rates = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2)
    values = [{"model.lr": rate, "model.dropout": 0.1 * (number % 2)} for number, rate in enumerate(rates)]
    skills = [0.1, 0.3, 0.6, 0.8, 0.97, 0.5]
    folder = write_example_sweep(tmp_path_factory.mktemp("whole") / "sweep", values, skills, test=20)
    write_job(folder / "6", {"model.lr": 0.1, "model.dropout": 0.0})
    write_record(folder / "6", "failed", error="CUDA ran out of memory; lower data.batch_size", seconds=12.5)
    return folder


def names(sweep: Sweep) -> list[str]:
    return [job.name for job in sweep.jobs]


def text_of(sweep: Sweep) -> str:
    """What the page says, tags left out and spaces made one."""
    body = render_sweep(sweep).partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<script>.*?</script>|<[^>]*>", " ", body, flags=re.DOTALL)).split())


# ------------------------------------------------------------ jobs


@pytest.mark.parametrize(
    ("monitor", "order"),
    [("val/wer", ["1", "2", "0"]), ("val/loss", ["1", "2", "0"]), ("val/cider", ["0", "2", "1"])],
)
def test_the_best_job_comes_first_whichever_way_is_better(tmp_path, monitor, order):
    for number, score in enumerate((0.9, 0.1, 0.5)):
        write_job(tmp_path / str(number), {"seed": number}, score, monitor=monitor)
    assert names(read_sweep(tmp_path)) == order


def test_jobs_with_the_same_number_stand_in_the_order_of_their_own_numbers(tmp_path):
    for number in (10, 9, 2):
        write_job(tmp_path / str(number), {"seed": number}, 0.5)
    sweep = read_sweep(tmp_path)
    assert names(sweep) == ["2", "9", "10"]
    assert [job.name for job in sweep.equals] == ["9", "10"]


def test_the_number_is_that_of_validation_and_not_the_best_of_the_test(tmp_path):
    write_job(tmp_path / "0", {"seed": 0}, 0.3, **{"test/wer": 0.1})
    write_job(tmp_path / "1", {"seed": 1}, 0.2, **{"test/wer": 0.4})
    best = read_sweep(tmp_path).best
    assert best is not None
    assert (best.name, best.score) == ("1", 0.2)


def test_a_job_whose_number_is_not_finite_is_not_ranked_and_says_why(tmp_path):
    write_job(tmp_path / "0", {"seed": 0}, 0.3)
    write_job(tmp_path / "1", {"seed": 1})
    write_numbers(tmp_path / "1", {"val/wer": None, "notes": {"val/wer": "was nan: the loss overflowed"}})
    sweep = read_sweep(tmp_path)
    assert [job.score for job in sweep.jobs] == [0.3, None]
    assert sweep.jobs[1].why == "no val/wer: was nan: the loss overflowed"


def test_jobs_with_another_monitor_are_told_of(tmp_path):
    for number in range(3):
        write_job(tmp_path / str(number), {"seed": number}, 0.3, monitor="val/wer" if number else "val/cider")
    sweep = read_sweep(tmp_path)
    assert sweep.monitor == "val/wer"
    assert "Not all jobs have the same monitor (val/cider)" in sweep.notes[0]
    assert [job.name for job in sweep.ranked] == ["1", "2"]


def test_the_time_of_a_job_is_from_its_start_to_its_numbers(tmp_path):
    write_numbers(write_job(tmp_path / "0", {"seed": 0}), {"val/wer": 0.5}, seconds=75)
    assert read_sweep(tmp_path).jobs[0].seconds == pytest.approx(75)


def test_the_time_of_a_job_that_was_interrupted_is_of_all_its_starts(tmp_path):
    write_record(write_job(tmp_path / "0", {"seed": 0}, 0.5), "finished", seconds=400.0)
    assert read_sweep(tmp_path).jobs[0].seconds == 400


# ------------------------------------------------------------ what became of them


def status_of(folder: Path) -> tuple[str, str]:
    (job,) = read_sweep(folder).jobs
    return job.status, job.why


def test_a_job_with_numbers_is_finished(tmp_path):
    write_job(tmp_path / "0", {"seed": 0}, 0.5)
    assert status_of(tmp_path) == ("finished", "")


def test_a_failed_job_says_why(tmp_path):
    write_record(write_job(tmp_path / "0", {"seed": 0}), "failed", error="data.path=x: no such folder")
    assert status_of(tmp_path) == ("failed", "data.path=x: no such folder")


def test_an_interrupted_job_says_how_far_it_came(tmp_path):
    write_record(write_job(tmp_path / "0", {"seed": 0}), "interrupted", exit_status=75)
    (tmp_path / "0/metrics.csv").write_text("step,train/loss,val/wer\n0,3,\n1,2,\n1,,0.75\n2,1,\n")
    why = "3 steps were logged, and val/wer was 0.750 when last measured"
    assert status_of(tmp_path) == ("interrupted", why)


def test_a_job_whose_process_is_there_is_running(tmp_path):
    write_record(write_job(tmp_path / "0", {"seed": 0}), "running", pid=os.getpid())
    assert status_of(tmp_path) == ("running", "no step was logged")


def test_a_job_whose_process_was_killed_is_not_running(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    write_record(write_job(tmp_path / "0", {"seed": 0}), "running", pid=process.pid)
    status, why = status_of(tmp_path)
    assert status == "interrupted"
    assert why.startswith(f"process {process.pid} on ")


def test_a_run_that_no_sweep_started_is_not_said_to_have_failed(tmp_path):
    write_job(tmp_path / "0", {"seed": 0})
    assert status_of(tmp_path) == ("unfinished", "its files don't say whether it still runs; no step was logged")


def test_a_failed_job_that_was_gone_on_with_since_counts(tmp_path):
    write_record(write_job(tmp_path / "0", {"seed": 0}, 0.5), "failed", ended=STARTED)  # its numbers came later
    assert status_of(tmp_path) == ("finished", "")


def test_numbers_of_a_job_that_failed_after_them_do_not_count(tmp_path):
    write_record(write_job(tmp_path / "0", {"seed": 0}, 0.5), "failed", ended="2030-01-01T00:00:00+00:00", error="x")
    (job,) = read_sweep(tmp_path).jobs
    assert (job.status, job.score) == ("failed", None)


@pytest.mark.parametrize("name", ["metrics.json", ".hydra/config.yaml", ".hydra/overrides.yaml"])
def test_a_damaged_file_costs_its_own_job_only(grid, name):
    (grid / "3" / name).write_text("{[")
    sweep = read_sweep(grid)
    assert len(sweep.ranked) == 8
    assert re.search(rf"3/{name}: not (JSON|YAML)", sweep.jobs[-1].why)


def test_a_job_that_left_nothing_is_there_all_the_same(grid):
    (grid / "9").mkdir()
    assert names(read_sweep(grid))[-1] == "9"


def test_a_job_that_was_never_started_is_known_from_its_sweep(grid):
    record = {"job": 9, "overrides": ["model.lr=0.5"], "folder": "/moved/since/9", "status": "not started"}
    (grid / ".sweep").mkdir()
    (grid / ".sweep/job-9.json").write_text(json.dumps(record | {"started": STARTED}))
    job = read_sweep(grid).jobs[-1]
    assert (job.name, job.status, job.settings["model.lr"]) == ("9", "not started", 0.5)


def test_runs_in_folders_of_folders_are_found_and_what_is_in_a_run_is_not(tmp_path):
    for name in ("2026-03-14/15-09-26", "2026-03-15/10-00-00"):
        write_job(tmp_path / name, {"seed": 0}, 0.5)
        write_job(tmp_path / name / "wandb/inner", {"seed": 0}, 0.5)
    write_job(tmp_path / ".hidden/0", {"seed": 0}, 0.5)
    (tmp_path / "empty").mkdir()
    assert names(read_sweep(tmp_path)) == ["2026-03-14/15-09-26", "2026-03-15/10-00-00"]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: None, "no such folder; give the folder of a sweep, such as multirun/DATE/TIME"),
        (lambda folder: folder.mkdir(), "holds no run; give the folder of a sweep, such as multirun/DATE/TIME"),
        (lambda folder: write_job(folder, {"seed": 0}, 0.5), "is one run; look at it with `captioning report "),
    ],
)
def test_a_folder_without_runs_is_refused_in_one_line(tmp_path, make, line):
    make(tmp_path / "folder")
    with pytest.raises(UserError, match=f"^{re.escape(f'{tmp_path}/folder: {line}')}"):
        read_sweep(tmp_path / "folder")


# ------------------------------------------------------------ what varies


def test_settings_vary_that_were_given_different_values(tmp_path):
    for number, rate in enumerate((0.1, 0.2)):
        write_job(tmp_path / str(number), {"model.lr": rate, "seed": 7}, 0.5)
    sweep = read_sweep(tmp_path)
    assert sweep.settings == ["model.lr"]
    assert [job.settings for job in sweep.jobs] == [{"model.lr": 0.1}, {"model.lr": 0.2}]


def test_a_job_that_was_not_given_a_setting_has_it_from_its_configuration(tmp_path):
    write_job(tmp_path / "0", {"model.lr": 0.1}, 0.5)
    write_job(tmp_path / "1", {"seed": 42}, 0.6)
    sweep = read_sweep(tmp_path)
    assert sweep.settings == ["model.lr"]  # and not the seed, which is 42 without being given too
    assert [job.settings["model.lr"] for job in sweep.jobs] == [0.1, 0.001]


def test_a_job_without_a_configuration_has_its_settings_from_the_command_line(tmp_path):
    for number, rate in enumerate((0.001, 0.002)):
        write_job(tmp_path / str(number), {"model.lr": rate, "model.width": 32, "model.half": True}, 0.5)
    overrides = ["model.lr=1e-5", "model.width=32", "model.half=true"]
    write_record(tmp_path / "2", "failed", overrides=overrides, error="it ended before it began")
    sweep = read_sweep(tmp_path)
    assert sweep.settings == ["model.lr"]
    assert sweep.jobs[-1].settings == {"model.lr": 1e-5}


def test_1_is_the_same_value_as_1_point_0(tmp_path):
    for number, rate in enumerate((1, 1.0)):
        write_record(tmp_path / str(number), "failed", overrides=[f"model.lr={rate}", f"seed={number}"])
    assert read_sweep(tmp_path).settings == ["seed"]


def test_a_setting_that_no_job_with_a_number_has_otherwise_is_not_judged(tmp_path):
    for number in range(2):
        write_job(tmp_path / str(number), {"model.lr": number, "model.beams": 1}, 0.5)
    write_record(write_job(tmp_path / "2", {"model.lr": 3, "model.beams": 0}), "failed", error="beams")
    sweep = read_sweep(tmp_path)
    assert sweep.settings == ["model.lr", "model.beams"]
    assert [one.setting for one in sweep.importance] == ["model.lr"]


def test_what_follows_from_a_choice_is_not_a_setting_of_its_own(tmp_path):
    for number, (model, width) in enumerate((("git-base", 768), ("git-large", 1024))):
        job = write_job(tmp_path / str(number), {"model": model}, 0.5)
        config = yaml.safe_load((job / ".hydra/config.yaml").read_text())
        config["model"]["width"] = width
        (job / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    sweep = read_sweep(tmp_path)
    assert sweep.settings == ["model"]
    assert [job.settings["model"] for job in sweep.jobs] == ["git-base", "git-large"]


def test_a_choice_that_was_not_given_is_told_by_hydra(tmp_path):
    write_job(tmp_path / "0", {"model": "git-large"}, 0.5)
    write_job(tmp_path / "1", {}, 0.6)
    (tmp_path / "1/.hydra/hydra.yaml").write_text("hydra: {runtime: {choices: {model: git-base}}}\n")
    assert [job.settings["model"] for job in read_sweep(tmp_path).jobs] == ["git-large", "git-base"]


def test_what_differs_without_having_been_given_varies_too(tmp_path):
    for number, rate in enumerate((0.1, 0.2)):
        write_job(tmp_path / str(number), {"model.lr": rate}, 0.5)
        (tmp_path / str(number) / ".hydra/overrides.yaml").write_text("[]\n")  # from Python, or of other code
    assert read_sweep(tmp_path).settings == ["model.lr"]


@pytest.mark.parametrize("key", ["resume", "output_dir", "hydra.run.dir"])
def test_where_a_job_ran_is_no_setting(tmp_path, key):
    for number in range(2):
        write_job(tmp_path / str(number), {"seed": 1, key: f"/somewhere/{number}"}, 0.5)
    assert read_sweep(tmp_path).settings == []


def test_names_of_settings_are_as_short_as_tells_them_apart():
    keys = ["model.lr", "data.size", "model.vision.size", "seed"]
    short = {"model.lr": "lr", "data.size": "data.size", "model.vision.size": "vision.size", "seed": "seed"}
    assert short_names(keys) == short


@pytest.mark.parametrize(
    ("value", "text"), [(0.0003032, "0.000303"), (8, "8"), (True, "true"), (None, "null"), ("a b", "a b")]
)
def test_values_are_written_as_on_the_command_line(value, text):
    assert value_text(value) == text


def test_the_setting_that_matters_is_found(grid):
    sweep = read_sweep(grid)
    assert [one.setting for one in sweep.importance] == ["model.lr", "model.dropout"]
    # H of ranks 1 2 3, 4 5 6, 7 8 9 is 7.2: (7.2 - 3 + 1)/(9 - 3)
    assert sweep.importance[0].share == pytest.approx(5.2 / 6)
    assert sweep.importance[1].share == 0


# ------------------------------------------------------------ what is written


def run_command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["sweep-report", *arguments], env={"COLUMNS": "100"})
    return result.exit_code, result.stdout


def test_the_command_says_the_best_job_and_writes_the_page(grid):
    status, output = run_command(str(grid))
    assert status == 0
    assert "9 jobs (9 finished), ranked by val/wer, lower is better" in output
    assert f"The best is job 3: {grid}/3" in output
    assert output.splitlines()[-1] == f"{grid}/sweep.html"
    assert (grid / "sweep.html").is_file()


def test_the_command_has_a_row_for_each_job_the_best_first(grid):
    write_record(write_job(grid / "9", {"model.lr": 1.0, "model.dropout": 0.0}), "failed", error="it [red]broke[/red]")
    rows = [line.split() for line in run_command(str(grid))[1].splitlines() if re.match(r"\d ", line)]
    assert [row[:4] for row in rows[:2]] == [["3", "0.001", "0", "0.200"], ["4", "0.001", "0.1", "0.210"]]
    assert rows[-1][:4] == ["9", "1", "0", "failed"]
    assert "job 9: failed, it [red]broke[/red]" in run_command(str(grid))[1]


def test_the_command_writes_json_where_it_is_told_to(grid, tmp_path):
    run_command(str(grid), "--json", str(tmp_path / "all.json"))
    content = json.loads((tmp_path / "all.json").read_text())
    assert (content["best"], content["direction"], content["counts"]) == ("3", "min", {"finished": 9})
    assert [job["settings"] for job in content["jobs"][:1]] == [{"model.lr": 0.001, "model.dropout": 0.0}]
    assert content["importance"]["of"][0]["setting"] == "model.lr"


def test_json_has_no_number_that_is_none(tmp_path):
    write_job(tmp_path / "0", {"seed": 0})
    (tmp_path / "0/metrics.json").write_text('{"val/wer": NaN, "test/loss": Infinity}')
    json.dumps(as_json(read_sweep(tmp_path)), allow_nan=False)


def test_a_mistake_is_answered_in_one_line(tmp_path):
    command = [sys.executable, "-c", "from captioning.cli import main; main()", "sweep-report", tmp_path / "nowhere"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path}/nowhere: no such folder")
    assert result.stderr.count("\n") == 1


def test_the_end_of_a_sweep_writes_the_page(grid):
    assert write_sweep_report(grid) == grid / "sweep.html"


@pytest.mark.parametrize("break_it", [shutil.rmtree, lambda grid: (grid / "sweep.html").mkdir()])
def test_a_report_that_cannot_be_written_fails_no_sweep(grid, caplog, monkeypatch, break_it):
    import logging

    monkeypatch.setattr(logging.getLogger("captioning"), "propagate", True)
    break_it(grid)
    assert write_sweep_report(grid) is None
    (line,) = {record.getMessage() for record in caplog.records}  # which two listeners may hear
    assert line.startswith("no sweep.html: ")
    assert line.endswith(f"try again with `captioning sweep-report {grid}`")


def test_the_report_needs_no_torch():
    code = (
        "import sys, captioning.sweeps.page, captioning.sweeps.table\n"
        "print({'torch', 'lightning', 'transformers', 'hydra', 'omegaconf', 'optuna', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_two_hundred_jobs_are_reported_in_seconds(tmp_path):
    for number in range(200):
        write_job(tmp_path / str(number), {"model.lr": 0.001 + number / 1e6, "seed": number % 5}, number / 200)
    start = time.perf_counter()
    page = write_sweep_page(read_sweep(tmp_path))
    assert time.perf_counter() - start < 10
    assert page.stat().st_size < 2e6


# ------------------------------------------------------------ the page


def test_the_page_names_no_address_elsewhere(whole):
    page = render_sweep(read_sweep(whole))
    assert not re.findall(r"https?:|[\"'(]//|<link|@import|url\((?!#)", page.replace("http://www.w3.org/2000/svg", ""))
    assert set(re.findall(r'src="([a-z]+:)', page)) == {"data:"}


def test_the_same_sweep_gives_the_same_page(whole):
    assert render_sweep(read_sweep(whole)) == render_sweep(read_sweep(whole))


def test_the_page_says_what_became_of_the_jobs(whole):
    text = text_of(read_sweep(whole))
    assert "6 finished, 1 failed" in text
    assert "Best: job 4" in text
    assert "CUDA ran out of memory; lower data.batch_size" in text


def test_the_page_has_the_command_that_goes_on_with_the_sweep(whole):
    text = text_of(read_sweep(whole))
    assert re.search(rf"python train\.py -m model\.lr=1e-05,\S+ model\.dropout=\S+ hydra\.sweep\.dir={whole}\b", text)
    assert "hydra.sweep.dir=elsewhere" not in text


def test_the_page_has_the_command_of_the_best_job(whole):
    assert "python train.py model.lr=0.001 model.dropout=0.0" in text_of(read_sweep(whole))


def test_the_log_of_a_job_that_failed_is_led_to(whole, tmp_path):
    sweep = Path(shutil.copytree(whole, tmp_path / "copy"))
    for job in ("0", "6"):
        (sweep / job / "job.log").write_text("…")
    assert re.findall(r'href="([^"#]*job.log)"', render_sweep(read_sweep(sweep))) == ["6/job.log"]


def test_the_page_of_a_sweep_without_a_number_says_so(tmp_path):
    write_record(write_job(tmp_path / "0", {"seed": 0}), "failed", error="no such folder")
    text = text_of(read_sweep(tmp_path))
    assert "No job has val/wer yet, so none is called best." in text
    assert "What matters" not in text


def test_of_many_settings_the_page_shows_ten(tmp_path):
    for number in range(4):
        write_job(tmp_path / str(number), {f"model.x{i}": number * i for i in range(15)}, number)
    assert "4 more settings vary than there is room for." in text_of(read_sweep(tmp_path))


def test_captions_of_the_four_best_jobs_are_shown_of_eight_images(whole):
    from captioning.sweeps.captions import side_by_side

    beside = side_by_side(read_sweep(whole))
    assert beside is not None
    assert [job.name for job in beside.jobs] == ["4", "3", "2", "5"]
    assert (beside.common, len(beside.images)) == (20, 8)
    assert all(image.image for image in beside.images)


def test_of_images_with_the_same_words_from_all_jobs_none_is_shown(tmp_path):
    from captioning.sweeps.captions import side_by_side

    for number, said in enumerate((("a dog", "a cat", "a cow"), ("A dog.", "a cat", "a horse"))):
        job = write_job(tmp_path / str(number), {"seed": number}, number)
        lines = [{"id": f"{i}.png", "references": ["a dog"], "prediction": text} for i, text in enumerate(said)]
        (job / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    beside = side_by_side(read_sweep(tmp_path))
    assert beside is not None
    assert (beside.common, beside.differing) == (3, 1)
    assert [image.id for image in beside.images] == ["2.png"]


def test_words_that_no_reference_has_are_marked_in_each_caption(tmp_path):
    from captioning.sweeps.captions import side_by_side

    for number, said in enumerate(("a red dog", "a blue dog")):
        job = write_job(tmp_path / str(number), {"seed": number}, number)
        line = {"id": "x.png", "references": ["A red dog."], "prediction": said}
        (job / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    beside = side_by_side(read_sweep(tmp_path))
    assert beside is not None
    good, bad = beside.images[0].captions
    assert (good.equal, bad.equal) == (True, False)
    assert [part.text for part in bad.parts if part.differs] == ["blue"]


def test_the_best_jobs_are_compared_on_the_test_images(whole):
    from captioning.sweeps.captions import side_by_side

    beside = side_by_side(read_sweep(whole))
    assert beside is not None
    assert beside.verdicts[0] == ""
    assert re.fullmatch(r"test wer \+0\.\d{3}: worse, p = \S+", beside.verdicts[3])


def test_jobs_tested_on_other_images_are_shown_without_comparison(tmp_path):
    for number in range(2):
        job = write_job(tmp_path / str(number), {"seed": number}, number)
        line = {"id": f"{number}.png", "references": ["a dog"], "prediction": "a dog"}
        (job / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    assert "The best jobs have no test image in common." in text_of(read_sweep(tmp_path))


def test_damaged_captions_of_a_job_are_named(whole, tmp_path):
    sweep = Path(shutil.copytree(whole, tmp_path / "copy"))
    (sweep / "4/predictions.jsonl").write_text("{[\n")
    assert "Job 4 isn't shown" in text_of(read_sweep(sweep))


HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">"\'\u2028'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    for number in range(2):
        job = write_job(tmp_path / f"sweep/{number}#<img src=x>", {"model.lr": f"{HOSTILE}{number}"}, number)
        line = {"id": HOSTILE, "references": [HOSTILE], "prediction": f"{HOSTILE} {number}"}
        (job / "predictions.jsonl").write_text(json.dumps(line) + "\n")
        (job / "report.html").write_text("<title>A run</title>")
    write_record(tmp_path / "sweep/2", "failed", error=HOSTILE)
    return tmp_path / "sweep"


def test_words_of_strangers_are_never_markup(hostile):
    page = render_sweep(read_sweep(hostile))
    assert page.count("<script") == 1
    assert "<img src=x" not in page


# ------------------------------------------------------------ parallel coordinates


def test_an_axis_has_its_low_end_at_the_bottom_and_the_number_its_good_end_at_the_top():
    plot = parallel([("lr", "model.lr", [1, 2, 3]), ("wer", "val/wer", [0.5, 0.25, 0.0])], turned=True)
    rate, score = plot.axes
    assert rate.y == [plot.bottom, (plot.top + plot.bottom) / 2, plot.top]
    assert score.y == [plot.bottom, (plot.top + plot.bottom) / 2, plot.top]
    assert (rate.low, rate.high, score.low, score.high) == (1, 3, 0.5, 0.0)


def test_an_axis_over_a_long_span_is_logarithmic():
    (axis,) = parallel([("lr", "lr", [1e-5, 1e-4, 1e-3])], turned=False).axes
    assert axis.logarithmic
    assert axis.y[1] == (axis.y[0] + axis.y[2]) / 2


def test_an_axis_of_choices_has_each_of_them_once():
    (axis,) = parallel([("model", "model", ["git-large", "git-base", "git-large", True])], turned=False).axes
    assert [tick.text for tick in axis.ticks] == ["git-base", "git-large", "true"]
    assert axis.y[0] == axis.y[2]


@pytest.mark.parametrize("values", [[5.0, 5.0], ["a", "a"]])
def test_an_axis_with_one_value_has_it_in_the_middle(values):
    plot = parallel([("x", "x", values)], turned=False)
    assert plot.axes[0].y == [(plot.top + plot.bottom) / 2] * 2


# ------------------------------------------------------------ in a browser


def rows(browser: chromium.Chromium) -> list[str]:
    """The names of the jobs in the table that are shown."""
    cells: list[str] = browser.value(
        "[...document.querySelectorAll('#job-table tbody tr:not([hidden])')].map(row => row.dataset.job)"
    )
    return cells


def header(name: str) -> str:
    return f'[...document.querySelectorAll("#job-table th button")].find(b => b.textContent === "{name}")'


def drag_axis(browser: chromium.Chromium, axis: int, start: float, end: float) -> None:
    """Drag along an axis with the mouse, between two shares of its height from the top."""
    browser.value("document.documentElement.style.scrollBehavior = 'auto'; parallel.scrollIntoView()")
    x, top, bottom = browser.value(
        f"(() => {{ const line = document.querySelectorAll('.axis')[{axis}].querySelector('line')"
        ".getBoundingClientRect(); return [line.x, line.top, line.bottom]; })()"
    )
    for kind, share in (("mousePressed", start), ("mouseMoved", (start + end) / 2), ("mouseMoved", end)):
        browser.do("Input.dispatchMouseEvent", type=kind, x=x, y=top + share * (bottom - top), button="left", buttons=1)
    browser.do("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=top + end * (bottom - top), button="left")


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser, whole):
    browser.open(write_sweep_page(read_sweep(whole)))
    asked = [m["params"]["request"]["url"] for m in browser.messages if m["method"] == "Network.requestWillBeSent"]
    assert sum(url.startswith("file:") for url in asked) == 1
    assert {url.partition(":")[0] for url in asked} == {"file", "data"}
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [m for m in browser.messages if m["method"] in complaints] == []
    assert browser.value("document.images.length") == 8
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_words_of_strangers_are_shown_and_not_run(browser, hostile):
    browser.open(write_sweep_page(read_sweep(hostile)))
    assert browser.value("document.title") == "sweep \N{EN DASH} captioning sweep"
    assert HOSTILE in browser.value("document.querySelector('#job-table').textContent")


def test_a_job_leads_to_its_report(browser, hostile):
    browser.open(write_sweep_page(read_sweep(hostile)))
    link = browser.value("document.querySelector('#job-table a').href")
    browser.do("Page.navigate", url=link)
    deadline = time.monotonic() + 10
    while browser.value("document.title") != "A run":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_dragging_along_an_axis_keeps_the_jobs_that_pass_there(browser, grid):
    browser.open(write_sweep_page(read_sweep(grid)))
    drag_axis(browser, 0, 0.4, 0.6)  # rates between 0.0006 and 0.0016: 0.001
    assert rows(browser) == ["3", "4", "5"]
    assert browser.value("document.querySelectorAll('.lines path:not(.off)').length") == 3
    assert browser.value("document.querySelector('#brush output').textContent").startswith("3 of 9 jobs are kept")


def test_two_brushed_axes_keep_what_passes_through_both(browser, grid):
    browser.open(write_sweep_page(read_sweep(grid)))
    drag_axis(browser, 0, 0.4, 0.6)
    drag_axis(browser, 1, 0.8, 1.0)  # without dropout
    assert rows(browser) == ["3"]


def test_a_button_brings_all_jobs_back(browser, grid):
    browser.open(write_sweep_page(read_sweep(grid)))
    drag_axis(browser, 0, 0.4, 0.6)
    browser.value("document.querySelector('#brush button').click()")
    assert len(rows(browser)) == 9
    assert browser.value("document.querySelector('#brush').hidden")


def test_a_job_without_a_number_is_hidden_while_an_axis_is_brushed(browser, grid):
    write_record(write_job(grid / "9", {"model.lr": 0.001, "model.dropout": 0.1}), "failed", error="x")
    browser.open(write_sweep_page(read_sweep(grid)))
    assert "9" in rows(browser)
    drag_axis(browser, 0, 0.4, 0.6)
    assert "9" not in rows(browser)


def test_an_end_of_an_axis_is_moved_by_keys(browser, grid):
    browser.open(write_sweep_page(read_sweep(grid)))
    browser.value("document.querySelector('.axis .end').focus()")
    for _ in range(21):  # of 40 steps from the top: below the middle
        browser.press("ArrowDown")
    assert rows(browser) == ["0", "1", "2"]
    assert 0.0008 < float(browser.value("document.activeElement.getAttribute('aria-valuetext')")) < 0.001
    browser.press("Home")
    assert len(rows(browser)) == 9


@pytest.mark.parametrize("name", ["lr", "dropout", "val/wer", "Time"])
def test_a_click_on_a_header_sorts_by_number_with_the_unknown_last(browser, grid, name):
    write_record(grid / "9", "not started")
    browser.open(write_sweep_page(read_sweep(grid)))
    column = browser.value(f"{header(name)}.closest('th').cellIndex")
    cells = f"[...document.querySelectorAll('#job-table tbody tr')].map(row => row.cells[{column}].dataset.value)"
    for descending in (False, True):
        browser.value(f"{header(name)}.click()")
        values = [float(value) for value in browser.value(cells) if value]
        assert values == sorted(values, reverse=descending)
        assert descending or name == "Time" or browser.value(cells)[-1] == ""


def test_a_line_that_is_pointed_at_is_told_apart_in_the_table(browser, grid):
    browser.open(write_sweep_page(read_sweep(grid)))
    browser.value("document.querySelector('.lines [data-job=\"5\"]').dispatchEvent(new Event('pointerenter'))")
    assert browser.value("document.querySelector('#job-table tr.pointed').dataset.job") == "5"


def test_without_javascript_all_jobs_and_lines_are_shown(browser, grid):
    page = write_sweep_page(read_sweep(grid))
    browser.do("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    assert len(rows(browser)) == 9
    assert browser.value("document.querySelectorAll('.lines path').length") == 9
    assert not browser.value("document.querySelector('.brush-help').checkVisibility()")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_of_a_narrow_page(browser, whole, tmp_path, width):
    sweep = Path(shutil.copytree(whole, tmp_path / ("long-" * 20)))
    write_record(sweep / "7", "failed", error="w" * 300)
    page = write_sweep_page(read_sweep(sweep))
    browser.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(page)
    assert browser.value("document.documentElement.scrollWidth") <= width
