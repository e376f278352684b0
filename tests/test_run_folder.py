import json
import subprocess
import sys
from pathlib import Path

import pytest

from captioning.errors import UserError
from captioning.models.loading import load_model
from captioning.models.processor import load_processor
from captioning.runs.run_folder import RunFolder, write_model


@pytest.fixture
def full_disk(tmp_path: Path):
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(full_disk):
    RunFolder(full_disk).write_json("metrics.json", {"test/wer": 0.5})
    with pytest.raises(OSError, match="No space left"):
        RunFolder(full_disk).write_json("metrics.json", ["x" * 100] * 1000)
    assert json.loads((full_disk / "metrics.json").read_text()) == {"test/wer": 0.5}
    assert [path.name for path in full_disk.iterdir()] == ["metrics.json"]


def test_a_model_that_cannot_be_finished_is_named_and_leaves_nothing(full_disk, checkpoint):
    network, processor = load_model(str(checkpoint)), load_processor(str(checkpoint))
    with pytest.raises(UserError, match=r"disk/model: the model can't be written .*No space left"):
        write_model(full_disk / "model", network=network, processor=processor)
    assert list(full_disk.iterdir()) == []


def test_a_disk_that_training_would_fill_is_refused_before_training(full_disk, compose, images):
    from conftest import SMALL

    from captioning.run import train

    cfg = compose(*SMALL, f"data.path={images}", f"output_dir={full_disk / 'run'}")
    with pytest.raises(UserError, match=r"hydra\.run\.dir=.* are free, and 4 checkpoints and the model need"):
        train(cfg)
    assert not (full_disk / "run" / "checkpoints").exists()


def test_the_weights_are_as_readable_as_the_files_beside_them(checkpoint, tmp_path):
    network, processor = load_model(str(checkpoint)), load_processor(str(checkpoint))
    write_model(tmp_path / "model", network=network, processor=processor)
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1


def test_captions_keep_their_letters(tmp_path):
    RunFolder(tmp_path).write_json_lines("predictions.jsonl", [{"prediction": "čáp 🐦"}])
    assert (tmp_path / "predictions.jsonl").read_text(encoding="utf-8") == '{"prediction": "čáp 🐦"}\n'


def test_the_environment_outside_a_git_checkout_says_so(tmp_path):
    code = (
        "import shutil, sys, pathlib, captioning; source = pathlib.Path(captioning.__file__).parent\n"
        f"shutil.copytree(source, {str(tmp_path / 'captioning')!r})\n"
        f"sys.path.insert(0, {str(tmp_path)!r}); [sys.modules.pop(m) for m in list(sys.modules) if 'captioning' in m]\n"
        "from captioning.runs import run_folder\n"
        "print(run_folder.current_environment(data_fingerprint='', evaluated_split='', devices='')['git'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "None\n"


def test_a_second_run_in_a_folder_leaves_the_first_its_folder(tmp_path):
    folder = tmp_path / "run"
    with RunFolder(folder).lock():
        with pytest.raises(UserError, match="another run is at work in this folder"), RunFolder(folder).lock():
            pass
        assert folder.is_dir()


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(UserError), RunFolder(tmp_path / "run").lock():
        raise UserError("refused")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_files_has_nothing(tmp_path):
    run = RunFolder(tmp_path)
    files = (run.config, run.overrides, run.environment, run.splits, run.data, run.metrics, run.curves)
    assert [content for content in (*files, run.predictions, run.gallery, run.alarms) if content is not None] == []
    assert (run.hydra_runtime, run.thumbnails) == ({}, {})


def test_what_was_written_is_read(tmp_path):
    run = RunFolder(tmp_path)
    for wer in (0.5, 0.25):
        run.write_json("metrics.json", {"test/wer": wer})
        assert run.metrics == {"test/wer": wer}


def test_a_run_of_before_the_rename_is_read_under_the_new_names(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/pictures_per_second\n0,10\n")
    (tmp_path / "data.json").write_text('{"splits": {"test": {"pictures": 3}}}')
    run = RunFolder(tmp_path)
    assert (list(run.curves), run.data["splits"]["test"]["images"]) == (["train/images_per_second"], 3)
