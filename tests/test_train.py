"""`python train.py` as a user runs it: real processes, real files, and what they leave behind."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jiwer
import pytest
from conftest import ROOT, SMALL
from runs import train

import captioning.run
from captioning.errors import UserError
from captioning.metrics import HIGHER_IS_BETTER, normalize
from captioning.runs.run_folder import RunFolder


def trained(*overrides: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    ran = train(*overrides, folder=folder, **environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran


def run_here(cfg: object) -> dict[str, float]:
    """Train in this process: the same but for the command line and the start of a process."""
    return captioning.run.train(cfg)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def corpus_wer(predictions: Sequence[dict]) -> float:
    """The definition by jiwer: of each image, the reference with the lowest rate; then errors over words."""
    pairs = []
    for line in predictions:
        hypothesis = normalize(line["prediction"])
        references = [normalize(reference) for reference in line["references"]]
        pairs.append((min(references, key=lambda reference: jiwer.wer(reference, hypothesis)), hypothesis))
    return jiwer.wer([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs])


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Path:
    """The run folder of one process on 29 images, with wandb offline."""
    folder = tmp_path_factory.mktemp("one")
    trained(*SMALL, f"data.path={images}", "logger=wandb", "hydra.run.dir=run", "trainer.max_epochs=3", folder=folder)
    return folder / "run"


def test_the_run_folder_is_whole_and_holds_nothing_else(run):
    assert {path.name for path in run.iterdir()} == {
        ".hydra",
        ".lock",
        "environment.json",
        "hparams.yaml",
        "splits.json",
        "data.json",
        "checkpoints",
        "metrics.csv",
        "metrics.json",
        "gallery.jsonl",
        "predictions.jsonl",
        "thumbnails.parquet",
        "report.html",
        "model",
        "wandb",
    }
    for name in (".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoints/last.ckpt", "model/model.safetensors"):
        assert (run / name).is_file()


def test_metrics_hold_every_test_number_the_bests_validation_and_throughput(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() >= {
        *(f"{phase}/{name}" for phase in ("test", "val") for name in HIGHER_IS_BETTER),
        "train/images_per_second",
        "train/seconds_per_step",
        "train/memory_gb",
    }


def test_every_number_of_captions_has_an_interval_around_it(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for name in HIGHER_IS_BETTER.keys() - {"loss", "token_accuracy"}:
        low, high = metrics[f"test/{name}_ci95"]
        assert low <= metrics[f"test/{name}"] <= high, name


def test_the_reported_wer_is_jiwers_on_the_reported_captions(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/wer"] == pytest.approx(corpus_wer(lines_of(run / "predictions.jsonl")), rel=1e-6)


def test_predictions_are_those_of_the_test_split_in_order(run, images):
    splits = json.loads((run / "splits.json").read_text())
    predictions = lines_of(run / "predictions.jsonl")
    assert [line["id"] for line in predictions] == splits["test"]
    captions = {line["file_name"]: line["text"] for line in lines_of(images / "metadata.jsonl")}
    for line in predictions:
        assert line.keys() == {"id", "references", "prediction"}
        assert line["references"] == (captions[line["id"]] if isinstance(captions[line["id"]], list) else
                                      [captions[line["id"]]])  # fmt: skip


def test_the_splits_share_no_image_and_lose_none(run):
    splits = json.loads((run / "splits.json").read_text())
    ids = [name for split in ("train", "val", "test") for name in splits[split]]
    assert len(ids) == len(set(ids)) == 29


def test_the_environment_tells_what_the_run_stood_on(run):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["transformers"]
    assert len(environment["data_fingerprint"]) == 32
    assert RunFolder(run).hydra_runtime["choices"]["model"] == "git-tiny"
    assert environment.keys() >= {"git", "devices", "python", "command"}


def test_the_model_folder_gives_the_same_captions_in_a_fresh_process(run, images):
    predictions = lines_of(run / "predictions.jsonl")
    code = f"""
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor
processor = AutoProcessor.from_pretrained({str(run / "model")!r})
model = AutoModelForCausalLM.from_pretrained({str(run / "model")!r})
images = [Image.open({str(images)!r} + "/" + name) for name in {[line["id"] for line in predictions]}]
ids = model.generate(pixel_values=processor(images=images, return_tensors="pt").pixel_values, max_new_tokens=8)
print("\\n".join(processor.batch_decode(ids, skip_special_tokens=True)))
"""
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.splitlines() == [line["prediction"] for line in predictions]


def test_the_model_folder_holds_no_pickle(run):
    assert {path.suffix for path in (run / "model").iterdir()} == {".json", ".safetensors"}


def test_the_model_is_the_best_checkpoints_and_not_the_lasts(compose, images, tmp_path):
    # A learning rate that ruins the model after the first epoch.
    overrides = ["trainer.max_epochs=2", "model.lr=0.5", "model.warmup_fraction=0.0", "model.lr_schedule=constant"]
    run_here(compose(*SMALL, f"data.path={images}", *overrides, "monitor=val/loss"))
    import torch
    from safetensors.torch import load_file

    checkpoints = tmp_path / "run" / "checkpoints"
    (best,) = checkpoints.glob("step*.ckpt")
    states = [torch.load(path, weights_only=True) for path in (best, checkpoints / "last.ckpt")]
    name = "git.embeddings.word_embeddings.weight"
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")[name]
    assert torch.equal(exported, states[0]["state_dict"][f"model.{name}"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["val/loss"] == states[0]["metrics"]["val/loss"] <= states[1]["metrics"]["val/loss"]


def test_the_last_checkpoint_is_of_the_last_step(compose, images, tmp_path):
    import torch

    run_here(compose(*SMALL, f"data.path={images}", "trainer.max_epochs=3", "model.lr=1.0e-9"))  # nothing improves
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 18


def test_the_weights_of_an_earlier_run_are_left_as_they_are(compose, images, tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^hydra\.run\.dir=.* holds the weights of an earlier run"):
        run_here(compose(*SMALL, f"data.path={images}"))


def test_no_checkpoint_has_an_equals_sign_in_its_name(run):
    assert not [path for path in (run / "checkpoints").iterdir() if "=" in path.name]


def test_the_terminal_shows_numbers_captions_and_places(images, tmp_path):
    shown = trained(*SMALL, f"data.path={images}", "hydra.run.dir=run", folder=tmp_path, COLUMNS="200").stdout
    prediction = lines_of(tmp_path / "run" / "predictions.jsonl")[0]
    for text in ("Word error rate", prediction["id"], prediction["references"][0], "predictions.jsonl", "model"):
        assert text in shown


def test_wandb_offline_says_how_to_look_and_how_to_sync(images, tmp_path):
    short = ("trainer.max_steps=1", "trainer.max_epochs=-1", "hydra.run.dir=run")
    said = trained(*SMALL, f"data.path={images}", "logger=wandb", *short, folder=tmp_path).stderr
    folder = tmp_path / "run" / "wandb"
    assert f"`wandb leet {folder}`, send it with `wandb sync {folder}/offline-run-*`" in said
    assert list(folder.glob("offline-run-*"))


def test_nobody_is_sent_to_a_tracker_that_is_not_there(images, tmp_path):
    said = trained(*SMALL, f"data.path={images}", "logger=wandb", "trainer.fast_dev_run=1", folder=tmp_path).stderr
    assert "wandb" not in said


def inspected(run: Path, form: str = "--json") -> str:
    """What wandb itself reads from the offline files of a run."""
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", form]
    files = run.glob("wandb/offline-run-*/*.wandb")
    return subprocess.run([*command, *files], capture_output=True, text=True, check=True).stdout


def test_wandb_holds_the_whole_resolved_configuration_and_the_curves(run):
    shown = inspected(run)
    for text in ("max_new_tokens", "gradient_clip_val", "image_size", "val/wer", "train/loss"):
        assert text in shown


def test_wandbs_summary_holds_best_and_last_each_metric_by_its_own_direction(run):
    lines = (line.split(maxsplit=1) for line in inspected(run, "--summary").splitlines())
    summary = dict(line for line in lines if len(line) == 2)
    for name, best in (("val/wer", "min"), ("val/cider", "max"), ("val/loss", "min")):
        assert {f"{name}.last", f"{name}.{best}"} <= summary.keys(), name
    metrics = json.loads((run / "metrics.json").read_text())
    assert float(summary["best/val/wer"]) == metrics["val/wer"]
    assert json.loads(summary["test/wer_ci95"]) == metrics["test/wer_ci95"]


def test_wandb_has_a_table_of_the_same_images_that_grows_by_step(run):
    tables = sorted(run.glob("wandb/offline-run-*/files/media/table/val/gallery_*.table.json"))
    rows = [row for table in tables for row in json.loads(table.read_text())["data"]]
    lines = lines_of(run / "gallery.jsonl")
    assert sorted((row[0], row[1], row[4]) for row in rows) == sorted(
        (line["step"], line["id"], line["prediction"]) for line in lines
    )


def test_a_wandb_run_is_named_and_tagged_by_what_was_chosen(run):
    shown = inspected(run)
    assert '"display_name":"git-tiny folder ' in shown
    assert '"tags":["git-tiny","folder"]' in shown
    assert str(run.parent) not in shown.split('"display_name":')[1].split(",")[0]


def test_the_model_is_no_artifact_unless_asked_for(run):
    assert '"type":"model"' not in inspected(run)


def test_the_model_folder_is_an_artifact_where_asked_for(images, tmp_path):
    switch = ["logger=wandb", "logger.wandb.log_model=true", "hydra.run.dir=run"]
    trained(*SMALL, f"data.path={images}", *switch, folder=tmp_path)
    shown = inspected(tmp_path / "run")
    assert '"type":"model"' in shown
    assert "model.safetensors" in shown


def test_csv_logger_writes_the_curves_into_the_run_folder(compose, images, tmp_path):
    run_here(compose(*SMALL, f"data.path={images}", "logger=csv"))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert [float(row["val/wer"]) for row in rows if row["val/wer"]]


@pytest.mark.parametrize(
    "override",
    [
        "trainer.fast_dev_run=true",
        "callbacks=early-stopping",
        "callbacks.gallery=null",
        "callbacks.collapse_alarm=null",
        "monitor=val/cider",
        "trainer.limit_val_batches=0",
        "trainer.max_steps=2",
        "callbacks.checkpoint=null",
        "callbacks.throughput=null",
        "trainer.overfit_batches=1",
        "data.num_workers=1",
        "model.num_beams=2",
        "trainer.precision=bf16-mixed",
        "seed=7",
    ],
)
def test_a_run_succeeds_with(compose, images, tmp_path, override):
    run_here(compose(*SMALL, f"data.path={images}", override))
    assert lines_of(tmp_path / "run" / "predictions.jsonl")


def test_validation_by_steps_is_at_every_so_many_optimizer_steps_and_at_the_end(compose, images, tmp_path):
    # 23 images by 4 make 6 micro-batches an epoch, by 4 make windows of 4 and 2: two steps an epoch, 6 in all.
    windows = ["trainer.max_epochs=3", "trainer.accumulate_grad_batches=4", "val_every_n_steps=4"]
    run_here(compose(*SMALL, f"data.path={images}", *windows, "callbacks.checkpoint.save_top_k=-1"))
    names = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step*.ckpt")]
    assert sorted(name[: len("step000004")] for name in names) == ["step000004", "step000006"]


def test_each_validation_within_an_epoch_keeps_its_own_weights_with_its_own_number(compose, images, tmp_path):
    import torch

    steps = ["trainer.max_epochs=2", "val_every_n_steps=4", "callbacks.checkpoint.save_top_k=-1", "model.lr=0.01"]
    metrics = run_here(compose(*SMALL, f"data.path={images}", *steps))  # 6 steps an epoch
    checkpoints = {}
    for path in (tmp_path / "run" / "checkpoints").glob("step*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert path.stem == f"step{checkpoint['global_step']:06d}-{checkpoint['metrics']['val/wer']:.4f}"
        checkpoints[checkpoint["global_step"]] = checkpoint["metrics"]["val/wer"]
    assert sorted(checkpoints) == [4, 8, 12]
    assert metrics["val/wer"] == min(checkpoints.values()) == checkpoints[metrics["tested_step"]]


def test_early_stopping_counts_validations(compose, images, tmp_path):
    stop = ["callbacks=early-stopping", "callbacks.early_stopping.patience=2", "val_every_n_steps=1", "model.lr=1.0e-9"]
    run_here(compose(*SMALL, f"data.path={images}", *stop, "trainer.max_epochs=3"))  # nothing improves
    assert len({line["step"] for line in lines_of(tmp_path / "run" / "gallery.jsonl")}) == 3


def test_without_validation_the_last_weights_are_kept_and_none_is_called_best(compose, images, tmp_path):
    import torch

    metrics = run_here(compose(*SMALL, f"data.path={images}", "trainer.limit_val_batches=0", "trainer.max_epochs=3"))
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 18
    assert "tested_step" not in metrics


def test_a_run_without_a_best_checkpoint_is_tested_as_it_is(compose, images):
    metrics = run_here(compose(*SMALL, f"data.path={images}", "callbacks.checkpoint=null", "trainer.max_epochs=2"))
    assert "tested_step" not in metrics
    assert "val/wer" in metrics


def test_a_run_that_ends_within_an_epoch_is_validated_at_its_end(compose, images, tmp_path):
    metrics = run_here(compose(*SMALL, f"data.path={images}", "trainer.max_steps=2"))
    assert "val/wer" in metrics
    assert any(path.name.startswith("step000002") for path in (tmp_path / "run" / "checkpoints").iterdir())


def test_a_run_whose_last_epoch_is_not_due_is_validated_at_its_end_too(compose, images, tmp_path):
    epochs = ["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2", "callbacks.checkpoint.save_top_k=-1"]
    run_here(compose(*SMALL, f"data.path={images}", *epochs))  # 6 steps an epoch
    names = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step*.ckpt")]
    assert sorted(name[: len("step000012")] for name in names) == ["step000012", "step000018"]


def test_another_order_of_workers_changes_no_weight(compose, images, tmp_path):
    """Every random choice about an image is a function of seed, epoch and position, and not of who makes it."""
    import torch

    weights = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        settings = [f"data.num_workers={workers}", "trainer.max_epochs=2", f"output_dir={folder}"]
        run_here(compose(*SMALL, f"data.path={images}", *settings))
        weights.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_experiment_tutorial_runs_on_a_checkpoint_folder_and_local_images(compose, images, checkpoint, tmp_path):
    small = ["trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.precision=bf16-mixed", "data.num_workers=0"]
    local = [f"model.checkpoint={checkpoint}", "data=folder", f"data.path={images}", "model.max_new_tokens=4"]
    run_here(compose("experiment=tutorial", *local, *small, "logger=none"))
    assert lines_of(tmp_path / "run" / "predictions.jsonl")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.batch_size=0", "data.path=."], r"^data\.batch_size must be at least 1, got 0$"),
        ([], r"^data\.path is missing"),
        (["data.path=nowhere"], r"^data\.path=nowhere: no such folder"),
        (["data.path={empty}"], r"^data\.path=.*: no captions in this folder"),
        (["data.path={images}", "model.checkpoint={images}"], r"^model\.checkpoint=.*: its processor can't"),
        (["data.path={images}", "model.checkpoint={images}/metadata.jsonl"], r"^model\.checkpoint=.* is a file"),
        (["data.path={images}", "data.caption_column=txt"], r"^data\.caption_column=txt: .*did you mean text\?"),
        (["data.path={images}", "model.lr_schedule=constan"], r"did you mean constant\?"),
        (["data.path={images}", "data.limit=2"], r"^2 captioned images leave none for train"),
    ],
)
def test_a_mistake_of_values_is_refused_by_name(compose, images, tmp_path, overrides, line):
    (tmp_path / "empty").mkdir()
    overrides = [override.format(images=images, empty=tmp_path / "empty") for override in overrides]
    with pytest.raises(UserError, match=line):
        run_here(compose(*SMALL, *overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.devcies=2", "error: trainer.devcies=2: no such setting; did you mean trainer.devices?"),
        (
            "data.path=nowhere",
            "error: data.path=nowhere: no such folder or file; a data set of the Hub is read with data=hub "
            "data.path=USER/NAME",
        ),
    ],
)
def test_a_mistake_ends_in_one_line_and_no_traceback(tmp_path, override, line):
    ran = train(*SMALL, override, folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (1, f"{line}\n")


def test_a_traceback_is_shown_when_asked_for(tmp_path):
    command = [sys.executable, ROOT / "train.py", *SMALL, "data.path=nowhere"]
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" in ran.stderr
    assert ran.returncode == 1


def test_the_users_own_command_without_the_hub_names_what_was_looked_for_and_the_way_out(tmp_path):
    ran = train("model=git-base", "trainer.devices=2", "trainer.accelerator=cpu", "logger=none", folder=tmp_path,
                HF_HUB_CACHE=str(tmp_path / "cache"), HF_ENDPOINT="http://127.0.0.1:9")  # fmt: skip
    assert ran.returncode == 1
    (said,) = ran.stderr.splitlines()
    assert "pokemon" in said
    assert "data=folder" in said


def test_a_run_folder_that_cannot_be_written_is_named(images, tmp_path):
    ran = train(*SMALL, f"data.path={images}", "hydra.run.dir=/proc/run", folder=tmp_path)
    assert ran.stderr.startswith("error: ")
    assert "/proc" in ran.stderr
    assert "hydra.run.dir" in ran.stderr


def test_a_mistake_is_answered_before_what_training_alone_needs_is_imported(tmp_path):
    command = [sys.executable, "-X", "importtime", ROOT / "train.py", "trainer.devcies=2"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert "lightning" in imported
    assert imported.isdisjoint({"datasets", "wandb", "peft"})
