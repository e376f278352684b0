import html
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from example_sweep import write_example_sweep, write_failure, write_grid, write_job, write_numbers
from optuna.distributions import FloatDistribution
from typer.testing import CliRunner

from captioning.cli import app
from captioning.errors import UserError
from captioning.runs.run_folder import RunFolder
from captioning.sweeps.captions import side_by_side
from captioning.sweeps.importance import storage_of
from captioning.sweeps.page import render_sweep, write_sweep_page
from captioning.sweeps.report import SweepResults, as_json, read_sweep, short_names, value_text

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
    write_failure(folder / "6", "CUDA ran out of memory; lower data.batch_size")
    return folder


def names(sweep: SweepResults) -> list[str]:
    return [job.name for job in sweep.jobs]


def text_of(sweep: SweepResults) -> str:
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
    assert names(read_sweep(tmp_path)) == ["2", "9", "10"]


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
    assert sweep.jobs[1].note == "no val/wer: was nan: the loss overflowed"


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


# ------------------------------------------------------------ what became of them


def status_of(folder: Path) -> tuple[str, str]:
    (job,) = read_sweep(folder).jobs
    return job.status, job.note


def test_a_job_with_numbers_is_finished(tmp_path):
    write_job(tmp_path / "0", {"seed": 0}, 0.5)
    assert status_of(tmp_path) == ("finished", "")


def test_a_failed_job_says_why(tmp_path):
    write_failure(write_job(tmp_path / "0", {"seed": 0}), "data.path=x: no such folder")
    assert status_of(tmp_path) == ("failed", "data.path=x: no such folder")


def test_an_error_that_a_job_printed_before_it_was_started_again_does_not_count(tmp_path):
    write_failure(write_job(tmp_path / "0", {"seed": 0}), "no such folder")
    with (tmp_path / "0/job.log").open("a") as log:
        log.write("$ python train.py\nstopped by SIGTERM at step 3\n")
    assert status_of(tmp_path) == ("unfinished", "no step was logged")


def test_an_unfinished_job_says_how_far_it_came(tmp_path):
    write_job(tmp_path / "0", {"seed": 0})
    (tmp_path / "0/metrics.csv").write_text("step,train/loss,val/wer\n0,3,\n1,2,\n1,,0.75\n2,1,\n")
    assert status_of(tmp_path) == ("unfinished", "3 steps were logged, and val/wer was 0.750 when last measured")


def test_a_job_whose_folder_a_process_trains_in_is_running(tmp_path):
    write_job(tmp_path / "0", {"seed": 0})
    with RunFolder(tmp_path / "0").lock():
        assert status_of(tmp_path)[0] == "running"
    assert status_of(tmp_path)[0] == "unfinished"


@pytest.mark.parametrize("name", ["metrics.json", ".hydra/config.yaml", ".hydra/overrides.yaml"])
def test_a_damaged_file_costs_its_own_job_only(grid, name):
    (grid / "3" / name).write_text("{[")
    sweep = read_sweep(grid)
    assert len(sweep.ranked) == 8
    assert re.search(rf"3/{name}: not (JSON|YAML)", sweep.jobs[-1].note)


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


def test_a_job_that_failed_before_its_training_has_its_settings_from_its_log(tmp_path):
    for number, rate in enumerate((0.001, 0.002)):
        write_job(tmp_path / str(number), {"model.lr": rate, "model.width": 32, "model.half": True}, 0.5)
        (tmp_path / str(number) / ".hydra/overrides.yaml").write_text(
            yaml.safe_dump([f"model.lr={rate}", "model.width=32", "model.half=true", "model.x=$\\{seed\\}"])
        )
    overrides = ["model.lr=1e-5", "model.width=32", "model.half=true", "model.x=$\\{seed\\}", 'hydra.run.dir="2"']
    write_failure(tmp_path / "2", "refused", *overrides)
    sweep = read_sweep(tmp_path)
    assert sweep.settings == ["model.lr"]
    assert sweep.jobs[-1].settings == {"model.lr": 1e-5}


def test_1_is_the_same_value_as_1_point_0(tmp_path):
    for number, rate in enumerate((1, 1.0)):
        write_failure(tmp_path / str(number), "x", f"model.lr={rate}", f"seed={number}")
    assert read_sweep(tmp_path).settings == ["seed"]


def test_what_follows_from_a_choice_is_not_a_setting_of_its_own(tmp_path):
    for number, (model, width) in enumerate((("git-base", 768), ("git-large", 1024))):
        job = write_job(tmp_path / str(number), {"model": model}, 0.5)
        config = yaml.safe_load((job / ".hydra/config.yaml").read_text())
        config["model"]["width"] = width
        (job / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    sweep = read_sweep(tmp_path)
    assert sweep.settings == ["model"]
    assert [job.settings["model"] for job in sweep.jobs] == ["git-base", "git-large"]


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
    write_failure(write_job(grid / "9", {"model.lr": 1.0, "model.dropout": 0.0}), "it [red]broke[/red]")
    rows = [line.split() for line in run_command(str(grid))[1].splitlines() if re.match(r"\d ", line)]
    assert [row[:4] for row in rows[:2]] == [["3", "0.001", "0", "0.200"], ["4", "0.001", "0.1", "0.210"]]
    assert rows[-1][:4] == ["9", "1", "0", "failed"]
    assert "job 9: failed, it [red]broke[/red]" in run_command(str(grid))[1]


def test_the_command_writes_json_where_it_is_told_to(grid, tmp_path):
    run_command(str(grid), "--json", str(tmp_path / "all.json"))
    content = json.loads((tmp_path / "all.json").read_text())
    assert (content["best"], content["direction"], content["counts"]) == ("3", "min", {"finished": 9})
    assert [job["settings"] for job in content["jobs"][:1]] == [{"model.lr": 0.001, "model.dropout": 0.0}]
    assert content["importance"] == {}


def test_where_output_is_no_terminal_nothing_is_cut_or_wrapped(tmp_path):
    long = {f"model.a_long_name_{index}": f"value-{'x' * 40}-{index}" for index in range(6)}
    for number in range(50):
        write_job(tmp_path / str(number), {key: f"{value}-{number}" for key, value in long.items()}, number)
    lines = run_command(str(tmp_path))[1].splitlines()
    for number in range(50):
        (row,) = (line for line in lines if line.startswith(f"{number} "))
        assert all(f"{value}-{number} " in row for value in long.values())


@pytest.mark.parametrize(
    ("trials", "says"), [(12, "What matters, by Optuna: model.lr 9"), (3, "3 trials have a score")]
)
def test_of_a_search_optuna_says_what_matters_if_it_has_enough_trials(tmp_path, trials, says):
    study = optuna.create_study(storage=storage_of(tmp_path, None), study_name="captioning")
    space = {"model.lr": FloatDistribution(0, 1), "model.dropout": FloatDistribution(0, 1)}
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    for number in range(trials):
        trial = study.ask(space)
        study.tell(trial, trial.params["model.lr"])
        write_job(tmp_path / str(number), trial.params, trial.params["model.lr"])
    origin = {"overrides": {"hydra": [], "task": []}, "sweeper": {"_target_": "hydra_plugins.x.OptunaSweeper"}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": origin}))
    assert says in run_command(str(tmp_path))[1]


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
    write_failure(write_job(tmp_path / "0", {"seed": 0}), "no such folder")
    assert "No job has val/wer yet, so none is best." in text_of(read_sweep(tmp_path))


def test_of_many_settings_the_page_shows_ten(tmp_path):
    for number in range(4):
        write_job(tmp_path / str(number), {f"model.x{i}": number * i for i in range(15)}, number)
    assert "4 more settings vary than there is room for." in text_of(read_sweep(tmp_path))


def test_captions_of_the_four_best_jobs_are_shown_of_eight_images(whole):
    beside = side_by_side(read_sweep(whole).ranked)
    assert beside is not None
    assert [job.name for job in beside.jobs] == ["4", "3", "2", "5"]
    assert (beside.common, len(beside.images)) == (20, 8)
    assert all(image.thumbnail for image in beside.images)


def test_of_images_with_the_same_words_from_all_jobs_none_is_shown(tmp_path):
    for number, said in enumerate((("a dog", "a cat", "a cow"), ("A dog.", "a cat", "a horse"))):
        job = write_job(tmp_path / str(number), {"seed": number}, number)
        lines = [{"id": f"{i}.png", "references": ["a dog"], "prediction": text} for i, text in enumerate(said)]
        (job / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    beside = side_by_side(read_sweep(tmp_path).ranked)
    assert beside is not None
    assert (beside.common, beside.differing) == (3, 1)
    assert [image.id for image in beside.images] == ["2.png"]


def test_words_that_no_reference_has_are_marked_in_each_caption(tmp_path):
    for number, said in enumerate(("a red dog", "a blue dog")):
        job = write_job(tmp_path / str(number), {"seed": number}, number)
        line = {"id": "x.png", "references": ["A red dog."], "prediction": said}
        (job / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    beside = side_by_side(read_sweep(tmp_path).ranked)
    assert beside is not None
    good, bad = beside.images[0].captions
    assert (good.equal, bad.equal) == (True, False)
    assert [part.text for part in bad.parts if part.differs] == ["blue"]


def test_jobs_tested_on_other_images_have_none_in_common(tmp_path):
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
    write_failure(tmp_path / "sweep/2", HOSTILE)
    return tmp_path / "sweep"


def test_words_of_strangers_are_never_markup(hostile):
    page = render_sweep(read_sweep(hostile))
    assert page.count("<script") == 1
    assert "<img src=x" not in page


# ------------------------------------------------------------ in a browser


def header(name: str) -> str:
    return f'[...document.querySelectorAll("#job-table th button")].find(b => b.textContent === "{name}")'


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


@pytest.mark.parametrize("name", ["lr", "dropout", "val/wer", "Time"])
def test_a_click_on_a_header_sorts_by_number_with_the_unknown_last(browser, grid, name):
    write_failure(grid / "9", "x")
    browser.open(write_sweep_page(read_sweep(grid)))
    column = browser.value(f"{header(name)}.closest('th').cellIndex")
    cells = f"[...document.querySelectorAll('#job-table tbody tr')].map(row => row.cells[{column}].dataset.value)"
    for descending in (False, True):
        browser.value(f"{header(name)}.click()")
        values = [float(value) for value in browser.value(cells) if value]
        assert values == sorted(values, reverse=descending)
        assert descending or name == "Time" or browser.value(cells)[-1] == ""


def test_without_javascript_all_jobs_and_plots_are_shown(browser, grid):
    page = write_sweep_page(read_sweep(grid))
    browser.do("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    assert browser.value("document.querySelectorAll('#job-table tbody tr').length") == 9
    assert browser.value("document.querySelectorAll('#settings svg').length") == 2


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_of_a_narrow_page(browser, whole, tmp_path, width):
    sweep = Path(shutil.copytree(whole, tmp_path / ("long-" * 20)))
    write_failure(sweep / "7", "w" * 300)
    page = write_sweep_page(read_sweep(sweep))
    browser.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(page)
    assert browser.value("document.documentElement.scrollWidth") <= width
