"""What stops a run, what it leaves behind then, and in which cases it can't be resumed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from conftest import ROOT
from runs import forked, run, said, start
from started import TRAIN
from test_resume import RUN, STEPS, assert_same_run, checkpoint_of, curves_of, killed, same

from captioning import CaptionDataModule, CaptionModule
from captioning.training.callbacks.exact_resume import ExactResume
from captioning.training.callbacks.weight_averaging import ExponentialMovingAverage
from captioning.training.checkpoints import newest_checkpoint
from captioning.training.signals import INTERRUPTED


class Poison(L.Callback):
    """Makes the weights of one process useless before a step."""

    def __init__(self, *, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            next(pl_module.parameters()).data.fill_(float("nan"))


class FillDisk(L.Callback):
    """From a step on the system writes no file of more than a few kilobytes, as with a quota that is used up."""

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


class Slow(L.Callback):
    """Steps that take a while, and say that they do."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        Path(trainer.default_root_dir, "steps").write_text(str(trainer.global_step))
        time.sleep(0.2)


@pytest.fixture(scope="module")
def settings(images) -> list[str]:
    return [*RUN, f"data.path={images}"]


@pytest.fixture(scope="module")
def stopped(settings, tmp_path_factory) -> Path:
    """A run that was told to stop after ten steps."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert run(*settings, *killed("SIGTERM", 9, "on_train_batch_start"), folder=folder) == [INTERRUPTED]
    assert checkpoint_of(folder)["global_step"] == 10
    return folder


@pytest.fixture
def copy(stopped, tmp_path) -> Path:
    """A copy of that run to go on with: a run may be moved."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def error_of(folder: Path) -> str:
    """The one line of an error; no run prints a traceback."""
    text = said(folder)
    assert "Traceback" not in text, text[-3000:]
    return [line for line in text.splitlines() if line.startswith("error")][-1]


# ------------------------------------------------------------ told to stop


def test_a_run_that_is_stopped_says_by_what_and_how_to_go_on(stopped):
    assert f"stopped by SIGTERM at step 10; to resume: python train.py resume={stopped}" in said(stopped)


def test_one_process_that_is_told_to_stop_stops_all_at_the_same_step(settings, tmp_path):
    given = ["data.batch_size=2", *killed("SIGTERM", 4), "++callbacks.kill.rank=1"]
    assert run(*settings, *given, folder=tmp_path / "run", processes=2) == [INTERRUPTED, INTERRUPTED]
    assert checkpoint_of(tmp_path / "run")["global_step"] == 5


def test_a_run_that_is_stopped_while_it_reads_its_data_says_that_nothing_is_lost(settings, tmp_path):
    (process,) = start(*settings, "data.source=creatures", folder=tmp_path / "run")
    while not (tmp_path / "run" / ".lock").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == INTERRUPTED
    assert "stopped by SIGTERM; to resume: start it again" in said(tmp_path / "run")


def test_a_second_signal_does_not_disturb_the_end(settings, tmp_path):
    (process,) = start(*settings, "data.source=creatures", folder=tmp_path / "run")
    while not (tmp_path / "run" / ".lock").exists():
        time.sleep(0.05)
    for name in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.kill(process.pid, name)
    process.join(60)
    assert process.exitcode == INTERRUPTED
    assert "Traceback" not in said(tmp_path / "run")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_that_does_not_come_to_the_end_of_a_step(settings, tmp_path):
    endless = ["data.batch_size=1", "trainer.accumulate_grad_batches=1000", "trainer.max_epochs=1000"]
    (process,) = start(*settings, *endless, "+callbacks.slow._target_=test_stopping.Slow", folder=tmp_path / "run")
    while not (tmp_path / "run" / "steps").exists():
        time.sleep(0.05)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.2)
    process.join(60)
    assert process.exitcode == 1


def test_the_time_that_a_run_has_ends_it_between_two_steps_and_it_can_go_on(settings, tmp_path):
    given = ["trainer.max_time={seconds:3}", "data.batch_size=2", "trainer.accumulate_grad_batches=3"]
    given += ["+callbacks.slow._target_=test_stopping.Slow", "trainer.max_epochs=50"]
    assert run(*settings, *given, folder=tmp_path / "run") == [0], said(tmp_path / "run")[-2000:]
    ended = checkpoint_of(tmp_path / "run")
    assert 0 < ended["global_step"] < 200
    last_step = max(int(row["step"]) for row in curves_of(tmp_path / "run") if row["train/loss"])
    assert ended["global_step"] == last_step + 1  # nothing was trained that isn't saved
    assert (tmp_path / "run" / "metrics.json").exists()
    assert f"trainer.max_time is over at step {ended['global_step']}; to resume" in said(tmp_path / "run")
    more = ["trainer.max_time={minutes:30}", f"trainer.max_steps={ended['global_step'] + 1}"]
    assert run(f"resume={tmp_path / 'run'}", *more, folder=tmp_path / "run") == [0], said(tmp_path / "run")[-2000:]
    assert checkpoint_of(tmp_path / "run")["global_step"] == ended["global_step"] + 1


def test_a_limit_of_time_that_is_set_later_is_of_all_training(settings, tmp_path):
    folder = tmp_path / "run"
    slow = ["+callbacks.slow._target_=test_stopping.Slow", "trainer.max_epochs=1"]  # 6 steps of 0.2 s
    assert run(*settings, *slow, folder=folder) == [0]
    more = ["trainer.max_time={seconds:1}", "trainer.max_epochs=50"]
    assert run(f"resume={folder}", *more, folder=folder) == [0], said(folder)[-2000:]
    assert checkpoint_of(folder)["global_step"] <= 7


# ------------------------------------------------------------ what goes wrong


def test_a_loss_that_is_no_number_stops_the_run_and_the_batch_is_written_down(settings, tmp_path):
    folder = tmp_path / "run"
    given = ["+callbacks.poison._target_=test_stopping.Poison", "+callbacks.poison.step=7"]
    assert run(*settings, *given, folder=folder) == [1]
    assert "train/loss is nan at step 8, at 4 images (" in error_of(folder)
    record = json.loads((folder / "not_finite.json").read_text())
    (batch,) = record["batches"]
    assert (record["step"], len(batch["ids"]), len(batch["captions"])) == (8, 4, 4)
    checkpoint = checkpoint_of(folder)
    assert checkpoint["global_step"] == 7
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())


def test_gradients_that_are_no_numbers_do_not_get_into_the_weights(settings, tmp_path):
    assert run(*settings, "model.lr=1.0e+30", "model.warmup_fraction=0", folder=tmp_path / "run") == [1]
    assert "model.lr=1e+30 is too high" in error_of(tmp_path / "run")


def test_the_batch_is_that_of_the_process_that_had_it(settings, tmp_path):
    folder = tmp_path / "run"
    given = ["+callbacks.poison._target_=test_stopping.Poison", "+callbacks.poison.step=3", "+callbacks.poison.rank=1"]
    assert run(*settings, "data.batch_size=2", *given, folder=folder, processes=2) == [1, 1]
    record = json.loads((folder / "not_finite.json").read_text())
    assert [batch["process"] for batch in record["batches"]] == [1]


def test_a_full_disk_ends_in_one_line_and_the_last_good_checkpoint_is_whole(settings, tmp_path):
    folder = tmp_path / "run"
    given = ["+callbacks.full._target_=test_stopping.FillDisk", "+callbacks.full.step=5", "logger=none"]
    assert run(*settings, *given, folder=folder) == [1]
    assert "last.ckpt: the checkpoint can't be written (" in error_of(folder)
    assert checkpoint_of(folder)["global_step"] in (4, 5)  # whose writing had begun
    assert run(f"resume={folder}", "callbacks.full=null", folder=folder) == [0], said(folder)[-2000:]


def test_two_runs_in_one_folder_at_once_are_one_too_many(settings, tmp_path):
    folder = tmp_path / "run"
    (first,) = start(*settings, "+callbacks.slow._target_=test_stopping.Slow", folder=folder)
    while not (folder / "steps").exists():
        time.sleep(0.05)
    written = (folder / ".hydra" / "config.yaml").read_text()
    assert run(*settings, "seed=7", folder=folder) == [1]
    assert "run: another run is at work in this folder; wait for it, or take another one" in error_of(folder)
    assert (folder / ".hydra" / "config.yaml").read_text() == written
    first.join(100)
    assert first.exitcode == 0


# ------------------------------------------------------------ going on


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(copy, settings, tmp_path):
    newest = copy / "checkpoints" / "last.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert run(f"resume={copy}", "callbacks.kill=null", folder=copy) == [0], said(copy)[-2000:]
    assert f"passed over: {newest}: damaged" in said(copy)
    assert "resuming after step 9, from" in said(copy)
    assert run(*settings, folder=tmp_path / "whole") == [0]
    newest.with_name("last.ckpt.damaged").unlink()
    assert_same_run(tmp_path / "whole", copy)


def test_a_run_without_any_whole_checkpoint_is_not_begun_again_behind_ones_back(copy):
    for path in (copy / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert run(f"resume={copy}", "callbacks.kill=null", folder=copy) == [1]
    assert "no checkpoint there is whole" in error_of(copy)


def test_a_run_that_has_ended_gives_its_numbers_and_does_nothing(settings, tmp_path):
    folder = tmp_path / "run"
    assert run(*settings, "trainer.max_epochs=1", folder=folder) == [0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run(f"resume={folder}", folder=folder) == [0]
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert before == after


def test_a_run_that_has_ended_can_be_made_longer_and_what_changes_is_said(settings, tmp_path):
    folder = tmp_path / "run"
    assert run(*settings, "trainer.max_epochs=1", folder=folder) == [0]
    assert run(f"resume={folder}", "trainer.max_epochs=2", "model.lr=1.0e-4", folder=folder) == [0]
    assert "resume: trainer.max_epochs is 2, was 1" in said(folder)
    assert "resume: model.lr is 0.0001, was 0.001" in said(folder)
    assert yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    rates = [float(row["train/lr"]) for row in curves_of(folder) if row["train/lr"]]
    assert max(rates[:6]) > 5e-4
    assert max(rates[6:]) < 1e-4
    assert json.loads((folder / "environment.json").read_text())["resumed"][0]["step"] == 6


def test_more_patience_is_had_from_then_on(settings, tmp_path):
    folder = tmp_path / "run"
    never_better = ["callbacks=early-stopping", "callbacks.early_stopping.min_delta=1000", "monitor=val/loss"]
    assert run(*settings, *never_better, "callbacks.early_stopping.patience=1", folder=folder) == [0]
    assert checkpoint_of(folder)["global_step"] == 12
    more = ["callbacks.early_stopping.patience=3", "trainer.max_epochs=6"]
    assert run(f"resume={folder}", *more, folder=folder) == [0]
    assert checkpoint_of(folder)["global_step"] == 24


def test_fewer_best_checkpoints_are_kept_from_then_on(settings, tmp_path):
    folder = tmp_path / "run"
    kept = ["callbacks.checkpoint.save_top_k=3", "monitor=val/loss"]
    assert run(*settings, *kept, "trainer.max_epochs=3", folder=folder) == [0]
    assert len(list((folder / "checkpoints").glob("step*.ckpt"))) == 3
    fewer = ["callbacks.checkpoint.save_top_k=1", "trainer.max_epochs=5"]
    assert run(f"resume={folder}", *fewer, folder=folder) == [0], said(folder)[-2000:]
    (best,) = (folder / "checkpoints").glob("step*.ckpt")
    losses = [float(row["val/loss"]) for row in curves_of(folder) if row["val/loss"]]
    assert best.stem.endswith(f"{min(losses):.4f}")


def test_a_report_that_the_run_was_stopped_before_is_made_up_for(settings, tmp_path):
    folder = tmp_path / "run"
    assert run(*settings, "trainer.max_epochs=1", folder=folder) == [0]
    (folder / "report.html").unlink()
    assert run(f"resume={folder}", folder=folder) == [0]
    assert (folder / "report.html").exists()


def test_a_run_that_is_stopped_before_its_next_step_says_at_which_it_is(copy):
    again = killed("SIGTERM", 0, "on_fit_start")  # when Lightning has not yet counted what the checkpoint has done
    assert run(f"resume={copy}", *again, folder=copy) == [INTERRUPTED]
    assert "stopped by SIGTERM at step 10; to resume" in said(copy)


def test_a_value_that_is_given_holds_though_it_is_that_of_conf(settings, tmp_path):
    folder = tmp_path / "run"
    assert run(*settings, "trainer.max_epochs=1", "model.lr=0.002", folder=folder) == [0]
    assert run(f"resume={folder}", "trainer.max_epochs=2", "model.lr=0.001", folder=folder) == [0]
    assert "resume: model.lr is 0.001, was 0.002" in said(folder)


def test_a_run_whose_best_checkpoint_holds_weights_alone_goes_on_and_ends(settings, tmp_path):
    folder = tmp_path / "run"
    given = ["callbacks.checkpoint.save_weights_only=true", *killed("SIGTERM", 9, "on_train_batch_start")]
    assert run(*settings, *given, folder=folder) == [INTERRUPTED]
    assert run(f"resume={folder}", "callbacks.kill=null", folder=folder) == [0], said(folder)[-2000:]


def test_curves_that_a_kill_cut_short_are_gone_on_with(copy):
    curves = copy / "metrics.csv"
    curves.write_text(curves.read_text() + "0.5,0.1")
    assert run(f"resume={copy}", "callbacks.kill=null", folder=copy) == [0], said(copy)[-2000:]
    steps = [int(row["step"]) for row in curves_of(copy) if row["train/loss"]]
    assert steps == list(range(STEPS))


def test_auto_begins_where_there_is_nothing_and_goes_on_where_there_is(settings, tmp_path):
    folder = tmp_path / "run"
    stop = killed("SIGTERM", 9, "on_train_batch_start")
    assert run(*settings, "resume=auto", *stop, folder=folder) == [INTERRUPTED]
    assert run(*settings, "resume=auto", folder=folder) == [0]
    assert "resuming after step 10" in said(folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("seed=7", "seed=7: the run was begun with 42, which can't change under way"),
        ("model.architecture.hidden_size=64", "model.architecture.hidden_size=64: the run was begun with 32"),
        ("model.lora_rank=4", "model.lora_rank=4: the run was begun with 0"),
        ("data.fit=pad", "data.fit=pad: the run was begun with null"),
        ("callbacks=ema", "a run that is resumed keeps its callbacks"),
        ("data.limit=12", "the data have changed since the run began"),
        ("data.split_seed=1", "the split isn't that of its splits.json any more"),
        ("hydra.run.dir=elsewhere", "a run is resumed in its own folder"),
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs"),
    ],
)
def test_what_contradicts_the_run_is_refused(copy, change, line):
    assert run(f"resume={copy}", "callbacks.kill=null", change, folder=copy) == [1]
    assert line in error_of(copy)


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(f"resume={tmp_path / 'empty'}", folder=tmp_path / "empty") == [1]
    assert "no run was begun there" in error_of(tmp_path / "empty")


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path):
    ended = forked([ROOT / "train.py", "resume=none/of/these"], tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "error: resume=none/of/these: no such folder; give a run folder, such as outputs/DATE/TIME\n"
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_that_is_given_for_a_run_is_refused_with_the_run_that_it_is_of(copy):
    last = copy / "checkpoints" / "last.ckpt"
    ended = forked([ROOT / "train.py", f"resume={last}"], copy)
    assert ended.returncode == 1
    assert ended.stderr == f"error: resume={last}: a file; give the run folder, such as {copy}\n"


def test_the_tracker_is_that_of_the_run(settings, tmp_path):
    folder = tmp_path / "run"
    stop = killed("SIGTERM", 9, "on_train_batch_start")
    offline = ["logger=wandb", "logger.wandb.offline=true", "logger.wandb.group=mine"]
    assert run(*settings, *offline, *stop, folder=folder) == [INTERRUPTED]
    assert run(f"resume={folder}", "callbacks.kill=null", folder=folder) == [0], said(folder)[-2000:]
    ids = {path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")}
    assert len(ids) == 1
    identity = json.loads((folder / "wandb" / "identity.json").read_text())
    assert (identity["id"], identity["group"]) == (ids.pop(), "mine")


# ------------------------------------------------------------ on another number of processes


class Notes(L.Callback):
    """Writes down which images each optimizer step was of."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, _: int) -> None:
        ids = [name for name, is_padding in zip(batch["id"], batch["is_padding"], strict=True) if not is_padding]
        line = {"step": trainer.global_step, "ids": ids}
        with Path(trainer.default_root_dir, f"notes-{trainer.global_rank}").open("a") as file:
            file.write(json.dumps(line) + "\n")


def images_by_step(folder: Path) -> dict[int, list[str]]:
    noted: dict[int, list[str]] = {}
    for file in folder.glob("notes-*"):
        for line in map(json.loads, file.read_text().splitlines()):
            noted.setdefault(line["step"], []).extend(line["ids"])
    return {step: sorted(ids) for step, ids in sorted(noted.items())}


def test_a_run_may_go_on_with_another_number_of_processes_and_sees_the_same_images(settings, tmp_path):
    noting = [*settings, "+callbacks.notes._target_=test_stopping.Notes"]
    assert run(*noting, folder=tmp_path / "one") == [0]
    two, stop = tmp_path / "two", killed("SIGTERM", 7, "on_train_batch_end")
    assert run(*noting, *stop, folder=two) == [INTERRUPTED]
    gone_on = [f"resume={two}", "callbacks.kill=null", "data.batch_size=1", "trainer.accumulate_grad_batches=2"]
    assert run(*gone_on, folder=two, processes=2) == [0, 0], said(two)[-2000:]
    assert images_by_step(two) == images_by_step(tmp_path / "one")
    assert len(images_by_step(two)) == STEPS
    losses = [
        [float(row["train/loss"]) for row in curves_of(tmp_path / name) if row["train/loss"]] for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # dropout isn't the same, sums have another order


# ------------------------------------------------------------ checkpoints of other days


FIRST_FORMAT = Path(__file__).parent / "fixtures" / "checkpoint-1.ckpt"


def test_a_checkpoint_of_the_first_format_loads_for_ever():
    module = CaptionModule.load_from_checkpoint(FIRST_FORMAT)
    content = torch.load(FIRST_FORMAT, weights_only=True)
    assert same(dict(module.state_dict()), dict(content["state_dict"]))
    assert module.processor.tokenizer("a red creature").input_ids


def test_a_training_goes_on_from_a_checkpoint_of_the_first_format(tmp_path):
    assert newest_checkpoint(FIRST_FORMAT.parent)[0].step == 6
    content = torch.load(FIRST_FORMAT, weights_only=True)
    data = CaptionDataModule(source="creatures", limit=40, batch_size=8, max_caption_tokens=12, num_workers=0)
    module = CaptionModule(**content["hyper_parameters"])
    module.restore(content)
    data.processor = module.processor
    kept = {"callbacks": [ExactResume(), ExponentialMovingAverage()], "default_root_dir": tmp_path, "logger": False}
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", devices=1, enable_checkpointing=False, **kept)
    trainer.fit(module, data, ckpt_path=FIRST_FORMAT, weights_only=True)
    assert trainer.global_step == 8


def test_whoever_reads_no_further_gets_no_complaint():
    read_end, write_end = os.pipe()
    os.close(read_end)
    asked = subprocess.run([*TRAIN, "--help"], stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert asked.stderr == b""
