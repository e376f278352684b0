"""`captioning evaluate` as a user runs it, and what it leaves behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import runs
from conftest import SMALL
from omegaconf import OmegaConf
from started import TORCHRUN

from captioning.config.compose import absolute_paths
from captioning.errors import UserError
from captioning.run import evaluate, train

ON_CPU = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", "data.num_workers=0"]


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Path:
    """A run folder as ``python train.py`` leaves it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    own = [f"data.path={images}", f"hydra.run.dir={folder}", "data.test_fraction=0.2", "model.lr=0.01"]
    assert runs.train(*SMALL, *own, folder=folder.parent).returncode == 0
    return folder


def numbers(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


def predictions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_run_evaluated_on_its_own_data_gives_the_numbers_of_its_own_test(run, tmp_path):
    evaluate(str(run), ON_CPU, folder=tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(run)
    assert predictions(tmp_path / "again") == predictions(run)


def test_a_checkpoint_of_a_run_is_evaluated_as_its_run(run, tmp_path):
    (best,) = (path for path in (run / "checkpoints").iterdir() if path.name != "last.ckpt")
    evaluate(str(best), ON_CPU, folder=tmp_path / "ckpt")
    assert numbers(tmp_path / "ckpt") == numbers(run)


def test_a_path_with_odd_characters_is_the_path_that_it_is(checkpoint, images, tmp_path):
    folder = tmp_path / 'a "b" $c, {d}=é'
    shutil.copytree(checkpoint, folder / "model folder")
    shutil.copytree(images, folder / "images")
    escaped = str(folder / "images").replace('"', '\\"').replace("${", "\\${")
    own = ["hydra.run.dir=run", "data.test_fraction=0.2", f'data.path="{escaped}"']
    assert runs.train(*SMALL, *own, folder=tmp_path).returncode == 0
    evaluate(str(tmp_path / "run"), ON_CPU, folder=folder / "out")
    assert predictions(folder / "out") == predictions(tmp_path / "run")


def test_the_split_that_was_evaluated_is_written_down(run, tmp_path):
    evaluate(str(run), ON_CPU, split="val", folder=tmp_path / "val")
    assert json.loads((tmp_path / "val" / "environment.json").read_text())["evaluated_split"] == "val"


def test_all_images_are_evaluated_where_all_are_asked_for(run, tmp_path):
    evaluate(str(run), ON_CPU, split="all", folder=tmp_path / "all")
    assert len(predictions(tmp_path / "all")) == 29
    assert json.loads((tmp_path / "all" / "splits.json").read_text()).keys() == {"all"}


def test_one_image_is_enough(checkpoint, images, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(images / "red-on-green.png", tmp_path / "one")
    (tmp_path / "one" / "red-on-green.txt").write_text("a red square on green")
    data = ["data=folder", f"data.path={tmp_path / 'one'}"]
    evaluate(str(checkpoint), [*data, *ON_CPU], split="all", folder=tmp_path / "out")
    metrics = numbers(tmp_path / "out")
    assert metrics["test/cider"] == 0
    assert not [name for name in metrics if name.endswith("_ci95")]


def test_decoding_is_what_was_asked_for(run, tmp_path):
    evaluate(str(run), [*ON_CPU, "model.max_new_tokens=2"], folder=tmp_path / "short")
    assert all(len(line["prediction"].split()) <= 2 for line in predictions(tmp_path / "short"))


def test_training_captions_are_known_only_where_the_data_are_the_runs_own(run, checkpoint, images, tmp_path):
    evaluate(str(run), ON_CPU, folder=tmp_path / "own")
    evaluate(str(checkpoint), ["data=folder", f"data.path={images}", *ON_CPU], folder=tmp_path / "foreign")
    assert "test/copied_captions" in numbers(tmp_path / "own")
    assert "test/copied_captions" not in numbers(tmp_path / "foreign")


def test_the_folder_has_what_a_run_has_but_a_model(run, tmp_path):
    evaluate(str(run), ON_CPU, folder=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".hydra",
        "environment.json",
        "splits.json",
        "data.json",
        "metrics.json",
        "predictions.jsonl",
        "thumbnails.parquet",
        "report.html",
    }


def test_training_goes_on_from_the_same_state_whoever_asks_for_a_composed_configuration(compose, images, run, tmp_path):
    evaluate(str(run), ON_CPU, folder=tmp_path / "out")
    train(compose(*SMALL, f"data.path={images}"))  # Hydra's state is left as it was
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("model", "overrides", "split", "line"),
    [
        ("{run}", [], "tset", r"^split=tset: no such split; did you mean test\?"),
        ("{checkpoint}", [], "test", r"^data= is missing: which images"),
        ("{checkpoint}/no.ckpt", ["data=folder", "data.path=."], "test", r"no\.ckpt: no such checkpoint"),
        ("{empty}", [], "test", r"this run holds no model; give the one that trained it"),
        ("{run}", ["model.temperature=-1.0"], "test", r"^model\.temperature must be above 0"),
        (
            "{run}",
            ["model.max_new_tokens=300"],
            "test",
            r"^model\.max_new_tokens=300: this model has positions for 128",
        ),
        ("{run}", ["hydra.run.dir=x"], "test", r"^hydra\.run\.dir=x: where results go is given by --output-dir DIR"),
        ("{checkpoint}/nowhere", ["data=folder", "data.path=."], "test", r"nowhere: no such folder$"),
        ("{empty}/nothing", ["data=folder", "data.path=."], "test", r"nothing: holds no model; give a run folder"),
        ("{empty}/no.ckpt", ["data=folder", "data.path=."], "test", r"no\.ckpt: no checkpoint of this project"),
    ],
)
def test_a_mistake_is_named(run, checkpoint, tmp_path, model, overrides, split, line):
    (tmp_path / "empty" / ".hydra").mkdir(parents=True)
    (tmp_path / "empty" / "nothing").mkdir()
    (tmp_path / "empty" / "no.ckpt").write_bytes(b"no checkpoint")
    named = model.format(run=run, checkpoint=checkpoint, empty=tmp_path / "empty")
    with pytest.raises(UserError, match=line):
        evaluate(named, overrides, split=split, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_command_that_a_run_folder_holds_is_not_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "foreign")
    config = tmp_path / "foreign" / ".hydra" / "config.yaml"
    settings = OmegaConf.load(config)
    settings.data.path = "${data.revision}"
    settings.data.revision = f"pipe:touch {tmp_path / 'ran'} #.tar"
    OmegaConf.save(settings, config)
    with pytest.raises(UserError, match=r"its data\.path runs a command; give the data yourself"):
        evaluate(str(tmp_path / "foreign"), ON_CPU, folder=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.num_beems=4", "model.num_beems=4: no such setting; did you mean model.num_beams?"),
        ("+split=val", "split: no such setting; there are: "),
    ],
)
def test_the_command_ends_a_mistake_in_one_line(run, tmp_path, override, line):
    ran = runs.forked([Path(sys.executable).with_name("captioning"), "evaluate", run, override], tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {line}")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "launcher"),
    [
        ("{run}/checkpoints/last.ckpt", []),
        ("{run}", [*TORCHRUN, "--no-python", "--nproc-per-node=2"]),
    ],
)
def test_the_command_evaluates_on_two_processes_as_on_one(run, tmp_path, model, launcher):
    program = Path(sys.executable).with_name("captioning")
    command = [*launcher, program, "evaluate", model.format(run=run), *ON_CPU, "trainer.devices=2"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    (results,) = tmp_path.glob("outputs/*/*")
    assert predictions(results) == predictions(run)


def test_a_run_is_not_overwritten(run):
    before = (run / ".hydra" / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"^--output-dir .*: holds a run; take another folder"):
        evaluate(str(run), ON_CPU, folder=run)
    assert (run / ".hydra" / "config.yaml").read_bytes() == before


def test_evaluating_on_images_that_it_was_trained_on_is_said(run, tmp_path, said):
    evaluate(str(run), [*ON_CPU, "data.split_seed=7"], folder=tmp_path / "out")
    assert "are among those that the model was trained on" in said.text


@pytest.mark.parametrize("path", ["https://host/{0..3}.tar", "pipe:cat 0.tar", "a.tar::https://host/b.tar"])
def test_an_address_of_shards_is_no_path_below_the_folder_of_the_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = path.replace("a.tar", f"{tmp_path}/a.tar")
    assert absolute_paths({"source": "local", "path": path}) == {"path": expected}


def test_a_relative_folder_of_images_is_found_from_anywhere(images, tmp_path, monkeypatch):
    shutil.copytree(images, tmp_path / "here" / "images")
    assert runs.train(*SMALL, "data.path=images", "hydra.run.dir=run", folder=tmp_path / "here").returncode == 0
    monkeypatch.chdir(tmp_path)
    evaluate("here/run", ON_CPU, folder=tmp_path / "out")
    assert predictions(tmp_path / "out") == predictions(tmp_path / "here" / "run")
