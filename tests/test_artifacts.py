import json

from conftest import SMALL

from captioning.run import train
from captioning.runs.run_folder import RunFolder
from captioning.training.artifacts import with_reasons


def test_a_number_that_is_none_is_null_with_a_reason():
    written = with_reasons({"test/wer": 0.5, "test/loss": float("nan"), "test/wer_ci95": [0.4, 0.6]})
    assert (written["test/wer"], written["test/loss"]) == (0.5, None)
    assert written["notes"].keys() == {"test/loss"}
    assert "was nan" in written["notes"]["test/loss"]


def test_finite_numbers_need_no_notes():
    assert with_reasons({"test/wer": 0.5}) == {"test/wer": 0.5}


def test_a_ruined_model_leaves_no_nan_in_a_result_file(compose, images, tmp_path):
    ruin = ["model.lr=1.0e30", "model.warmup_fraction=0.0", "trainer.max_steps=1"]  # a second step would be refused
    train(compose(*SMALL, f"data.path={images}", *ruin))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    written = json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=refuse)
    assert written["test/loss"] is None
    assert "test/loss" in written["notes"]


def test_the_folder_shows_the_data_and_every_test_image(compose, images, tmp_path):
    train(compose(*SMALL, f"data.path={images}"))
    run = tmp_path / "run"
    splits, data = (json.loads((run / name).read_text()) for name in ("splits.json", "data.json"))
    assert {split: numbers["images"] for split, numbers in data["splits"].items()} == {
        split: len(ids) for split, ids in splits.items()
    }
    thumbnails = RunFolder(run).thumbnails.keys()
    assert {("test", name) for name in splits["test"]} <= thumbnails
    assert {(sample["split"], sample["id"]) for sample in data["samples"]} <= thumbnails


def test_nothing_of_an_earlier_run_in_the_same_folder_passes_for_this_one(compose, images, tmp_path):
    stale = ("metrics.json", "predictions.jsonl", "gallery.jsonl", "alarms.jsonl", "thumbnails.parquet", "report.html")
    (tmp_path / "run").mkdir()
    for name in stale:
        (tmp_path / "run" / name).write_text("of an earlier run")
    train(compose(*SMALL, f"data.path={images}", "callbacks.gallery=null"))
    left = [name for name in stale if (tmp_path / "run" / name).exists()]
    assert left == ["metrics.json", "predictions.jsonl", "thumbnails.parquet", "report.html"]
    assert not [name for name in left if (tmp_path / "run" / name).read_bytes() == b"of an earlier run"]
