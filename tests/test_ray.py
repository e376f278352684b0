import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from captioning import Captioner
from captioning.errors import UserError
from captioning.inference.ray import CaptionBatch, caption_with_ray

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, one of them in a folder of its own, one file that is none, and one of text."""
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "more").mkdir()
    for number, file in enumerate(sorted(images.glob("*.png"))[:3]):
        shutil.copy(file, folder / ("more" if number else "") / file.name)
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("a list")
    return folder


@pytest.fixture(scope="module")
def rows(checkpoint: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What a Ray on this machine makes of the folder, by the names of files."""
    import ray

    output = tmp_path_factory.mktemp("captions") / "parquet"
    outcome = caption_with_ray(str(checkpoint), str(folder), str(output), max_new_tokens=6, device="cpu")
    ray.shutdown()
    assert outcome == (4, 1)
    return {Path(row["path"]).name: row for row in pyarrow.parquet.read_table(output).to_pylist()}


@pytest.mark.slow
def test_ray_captions_the_images_of_all_folders_as_the_captioner_does(checkpoint, folder, rows):
    captioner = Captioner.from_pretrained(checkpoint, device="cpu")
    files = [file for file in folder.rglob("*.png") if file.name != "bad.png"]
    captions = dict(zip((file.name for file in files), captioner(files, max_new_tokens=6), strict=True))
    assert {name: row["caption"] for name, row in rows.items() if name != "bad.png"} == captions


@pytest.mark.slow
def test_an_image_that_fails_is_kept_with_its_reason(rows):
    assert rows["bad.png"]["caption"] is rows["bad.png"]["score"] is None
    assert rows["bad.png"]["error"] == "not an image"


def test_arrays_of_read_images_are_captioned_and_their_other_columns_kept(checkpoint, images):
    arrays = np.stack([np.asarray(Image.open(file)) for file in sorted(images.glob("*.png"))[:2]])
    make = CaptionBatch(str(checkpoint), column="image", device="cpu", max_new_tokens=6)
    table = make({"image": arrays, "path": np.array(["a", "b"], dtype=object)})
    assert table.column_names == ["path", "caption", "score", "error"]
    assert table["caption"].to_pylist() == make.captioner(list(arrays), max_new_tokens=6)


def test_a_batch_in_which_all_fail_has_columns_of_the_same_types(checkpoint):
    make = CaptionBatch(str(checkpoint), device="cpu")
    table = make({"bytes": np.array([b"no image"], dtype=object)})
    assert [str(kind) for kind in table.schema.types] == ["string", "float", "string"]


@pytest.mark.slow
def test_what_is_in_the_output_is_left_alone(checkpoint, folder):
    with pytest.raises(UserError, match="isn't empty; name a new folder"):
        caption_with_ray(str(checkpoint), str(folder), str(folder))


def test_images_that_are_not_there_are_told_before_ray_is_started(checkpoint, tmp_path):
    with pytest.raises(UserError, match="absent: no such folder"):
        caption_with_ray(str(checkpoint), str(tmp_path / "absent"), str(tmp_path / "output"))


def test_the_class_can_be_sent_to_other_machines():
    assert pickle.loads(pickle.dumps(CaptionBatch)) is CaptionBatch
