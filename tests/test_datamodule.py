import io
import json
import tarfile
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from conftest import COLORS, ROOT
from PIL import Image

from captioning import CaptionDataModule
from captioning.errors import UserError


def data_of(folder: Path, checkpoint: Path, **settings: object) -> CaptionDataModule:
    data = CaptionDataModule(path=str(folder), processor=str(checkpoint), batch_size=4, num_workers=0, **settings)
    data.setup()
    return data


@pytest.fixture(scope="module")
def hundred(tmp_path_factory) -> Path:
    """A hundred images, the first half of them for training by their own word, the rest for validation and test."""
    folder = tmp_path_factory.mktemp("hundred")
    lines = []
    for number in range(100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:02}.png")
        split = "train" if number < 50 else "val" if number < 75 else "test"
        lines.append({"file_name": f"{number:02}.png", "text": "a red square", "split": split})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def names(data: CaptionDataModule) -> set[str]:
    return {name for ids in data.split_ids.values() for name in ids}


def test_a_limit_takes_a_sample_in_which_each_split_has_its_share(hundred, checkpoint):
    sizes = {split: len(ids) for split, ids in data_of(hundred, checkpoint, limit=40).split_ids.items()}
    assert sum(sizes.values()) == 40
    assert 15 <= sizes["train"] <= 25
    assert min(sizes["val"], sizes["test"]) >= 5


def test_a_larger_limit_holds_every_smaller_one(hundred, checkpoint):
    few, more = (names(data_of(hundred, checkpoint, limit=limit)) for limit in (30, 60))
    assert few < more


def test_a_limit_above_the_number_of_images_changes_nothing(hundred, checkpoint):
    assert names(data_of(hundred, checkpoint, limit=1000)) == names(data_of(hundred, checkpoint))


def test_loading_draws_nothing_from_the_generator_that_dropout_draws_from(hundred, checkpoint):
    data = data_of(hundred, checkpoint)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_test_can_be_on_any_split(hundred, checkpoint):
    data = data_of(hundred, checkpoint)
    data.set_eval_split("val")
    tested = [name for batch in data.test_dataloader() for name in batch["id"]]
    assert tested == data.split_ids["val"]


def test_a_test_on_training_images_takes_them_in_order_with_their_first_captions(images, checkpoint):
    data = data_of(images, checkpoint)
    data.set_eval_split("train")
    batches = list(data.test_dataloader())
    assert [name for batch in batches for name in batch["id"]] == data.split_ids["train"]
    assert all(learned(data, batch) == [captions[0] for captions in batch["references"]] for batch in batches)


def test_a_test_on_all_images_needs_no_split(hundred, checkpoint):
    data = CaptionDataModule(path=str(hundred), processor=str(checkpoint), limit=1)
    data.set_eval_split("all")
    data.setup()
    assert [len(ids) for ids in data.split_ids.values()] == [1]


def test_no_such_split_is_answered_with_the_nearest(hundred, checkpoint):
    with pytest.raises(UserError, match=r"^split=tets: no such split; did you mean test\?"):
        data_of(hundred, checkpoint).set_eval_split("tets")


def test_the_data_of_the_page_on_python_are_made_as_it_says():
    page = (ROOT / "docs" / "python.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("data = CaptionDataModule(")]
    names = {"CaptionDataModule": CaptionDataModule}
    exec(line, names)
    assert names["data"].hparams["path"] == "images"


# ---------------------------------------------------------------- what is bad


@pytest.fixture
def noisy(tmp_path) -> Path:
    """Thirty different images, and one that is none."""
    for number in range(30):
        noise(number).save(tmp_path / f"{number:02}.png")
        (tmp_path / f"{number:02}.txt").write_text(
            f"a {COLORS[number % 6]} square on white\na {COLORS[number % 6]} square"
        )
    (tmp_path / "30.png").write_bytes(b"<html>")
    (tmp_path / "30.txt").write_text("not an image")
    return tmp_path


def noise(number: int, size: int = 24) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size))


def test_what_is_bad_is_left_out_and_named(noisy, checkpoint, said):
    assert "30.png" not in names(data_of(noisy, checkpoint))
    assert "image can't be read: not an image: 30.png" in said.text


def test_what_was_found_is_in_the_summary(noisy, checkpoint):
    left_out = {"severity": "left out", "kind": "image can't be read: not an image", "names": ["30.png"]}
    assert left_out in data_of(noisy, checkpoint).summary["findings"]


def test_with_strict_it_stops_the_run(noisy, checkpoint):
    with pytest.raises(UserError, match=r"^data\.strict=true.*30\.png.*data\.strict=false"):
        data_of(noisy, checkpoint, strict=True)


def test_more_than_the_bad_share_stops_the_run(noisy, checkpoint):
    with pytest.raises(UserError, match=r"^1 of 31 left out, more than data\.max_bad_share=0\.03: .*30\.png"):
        data_of(noisy, checkpoint, max_bad_share=0.03)


def test_in_a_sample_bad_lines_have_their_share(tmp_path, checkpoint):
    lines = [json.dumps({"file_name": f"{number}.png", "text": "noise"}) for number in range(20)]
    for number in range(20):
        noise(number).save(tmp_path / f"{number}.png")
    missing = [json.dumps({"file_name": f"missing-{number}.png", "text": "gone"}) for number in range(2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines, *missing]))
    data = CaptionDataModule(path=str(tmp_path), processor=str(checkpoint), limit=10)
    assert (data.inspect().left_out, data.report.total) == (1, 11)


def test_an_inspection_reports_and_does_not_stop(noisy, checkpoint):
    data = CaptionDataModule(path=str(noisy), processor=str(checkpoint), strict=True)
    assert data.inspect().left_out == 1


# ---------------------------------------------------------------- splits


def test_near_duplicates_are_never_in_two_splits(noisy, checkpoint):
    for number in range(30):
        noise(number).resize((48, 48)).save(noisy / f"{number:02}-large.jpg", quality=90)
        (noisy / f"{number:02}-large.txt").write_text("the same, larger")
    sides = {name: split for split, ids in data_of(noisy, checkpoint).split_ids.items() for name in ids}
    assert all(sides[f"{number:02}.png"] == sides[f"{number:02}-large.jpg"] for number in range(30))
    apart = {
        name: split
        for split, ids in data_of(noisy, checkpoint, near_duplicates=False).split_ids.items()
        for name in ids
    }
    assert any(apart[f"{number:02}.png"] != apart[f"{number:02}-large.jpg"] for number in range(30))


def test_the_splits_of_a_run_can_be_taken_for_another(noisy, checkpoint, tmp_path):
    first = data_of(noisy, checkpoint, split_seed=5)
    (tmp_path / "splits.json").write_text(json.dumps(first.split_ids))
    assert data_of(noisy, checkpoint, splits_from=str(tmp_path / "splits.json")).split_ids == first.split_ids


def test_images_that_the_splits_do_not_name_are_left_out_and_named(noisy, checkpoint, tmp_path, said):
    splits = data_of(noisy, checkpoint).split_ids
    forgotten = splits["train"].pop()
    (tmp_path / "splits.json").write_text(json.dumps({**splits, "val": [*splits["val"], "gone.png"]}))
    data = data_of(noisy, checkpoint, splits_from=str(tmp_path / "splits.json"))
    assert forgotten not in names(data)
    assert f"image that data.splits_from doesn't name: {forgotten}" in said.text
    assert any("gone.png" in issue.names for issue in data.report.issues)


def test_splits_of_other_data_are_a_mistake_that_names_the_setting(noisy, checkpoint, tmp_path):
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["x"], "val": ["y"]}))
    with pytest.raises(UserError, match=r"^data\.splits_from=.*: no image of its train is in the data"):
        data_of(noisy, checkpoint, splits_from=str(tmp_path / "splits.json"))


# ---------------------------------------------------------------- on the device


def training_batches(data: CaptionDataModule) -> dict[str, list]:
    """What the steps of an epoch are given."""

    class Recorder(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.batches: dict[str, list] = {"train": [], "val": []}

        def training_step(self, batch, batch_idx):
            self.batches["train"].append(batch)
            return self.weight.sum()

        def validation_step(self, batch, batch_idx):
            self.batches["val"].append(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Recorder()
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(max_epochs=1, accelerator="cpu", devices=1, logger=False, num_sanity_val_steps=0, **quiet).fit(
        module, data
    )
    return module.batches


def learned(data: CaptionDataModule, batch: dict) -> list[str]:
    """The captions in a batch."""
    return data.processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)


def of_each_image(batches: list[dict], key: str) -> dict[str, object]:
    return {name: value for batch in batches for name, value in zip(batch["id"], batch[key], strict=True)}


def test_a_step_is_given_what_the_processor_makes_of_the_images(noisy, checkpoint):
    data = data_of(noisy, checkpoint)
    batches_of = training_batches(data)
    assert [len(of_each_image(batches, "id")) for batches in batches_of.values()] == [24, 3]
    for phase, batches in batches_of.items():
        for name, values in of_each_image(batches, "pixel_values").items():
            with Image.open(noisy / name) as image:
                expected = data.processor(images=image.convert("RGB"), return_tensors="pt").pixel_values[0]
            assert torch.equal(values, expected), phase


def test_training_images_alone_are_augmented(noisy, checkpoint):
    plain, augmented = (
        training_batches(data_of(noisy, checkpoint, augment_color_jitter=share)) for share in (0.0, 0.3)
    )
    for phase, changes in (("train", True), ("val", False)):
        one, other = (of_each_image(batches[phase], "pixel_values") for batches in (plain, augmented))
        assert all(torch.equal(one[name], other[name]) != changes for name in one), phase


def test_what_is_augmented_how_does_not_depend_on_workers_or_the_size_of_batches(noisy, checkpoint):
    alone, together = (
        of_each_image(training_batches(data)["train"], "pixel_values")
        for data in (
            data_of(noisy, checkpoint, augment_crop=0.3, augment_flip=0.5),
            CaptionDataModule(
                path=str(noisy),
                processor=str(checkpoint),
                augment_crop=0.3,
                augment_flip=0.5,
                batch_size=7,
                num_workers=2,
            ),
        )
    )
    plain = of_each_image(training_batches(data_of(noisy, checkpoint))["train"], "pixel_values")
    assert len(alone) == 24
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert not any(torch.equal(alone[name], plain[name]) for name in alone)


def test_all_captions_of_an_image_can_be_trained_on_at_once(noisy, checkpoint):
    batch = training_batches(data_of(noisy, checkpoint, captions="all"))["train"][0]
    assert batch["caption_index"].amax(1).tolist() == [1] * 4


def test_validation_learns_nothing_and_takes_first_captions(noisy, checkpoint):
    data = data_of(noisy, checkpoint, captions="all")
    (batch,) = training_batches(data)["val"]
    assert learned(data, batch) == [captions[0] for captions in batch["references"]]


def test_images_can_be_squashed_and_the_processor_says_so(tmp_path, noisy, checkpoint):
    data = data_of(noisy, checkpoint, fit="squash")
    data.processor.save_pretrained(tmp_path / "saved")
    size = json.loads((tmp_path / "saved" / "processor_config.json").read_text())["image_processor"]["size"]
    assert size == {"height": 32, "width": 32}


# ---------------------------------------------------------------- a stream


@pytest.fixture
def shards(tmp_path) -> Path:
    """Three shards of 20 images."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(20):
                encoded = io.BytesIO()
                noise(100 * shard + number).save(encoded, "PNG")
                for suffix, content in ((".png", encoded.getvalue()), (".txt", f"noise {number}".encode())):
                    member = tarfile.TarInfo(f"{number:02}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def stream_of(shards: Path, checkpoint: Path, **settings: object) -> CaptionDataModule:
    return data_of(shards, checkpoint, streaming=True, **({"stream_head": 30, "stream_epoch": 80} | settings))


def test_a_stream_is_validated_and_tested_on_images_of_its_head_and_trained_on_all_others(shards, checkpoint):
    data = stream_of(shards, checkpoint)
    held_out = {*data.split_ids["val"], *data.split_ids["test"]}
    seen = of_each_image(training_batches(data)["train"], "id")
    assert len(held_out) == 6
    assert len(seen) == 54
    assert not held_out & seen.keys()


def test_a_stream_leaves_out_what_another_run_tests_on_even_where_its_head_lacks_it(shards, checkpoint, tmp_path):
    ids = [f"{shard}/{number:02}" for shard in range(3) for number in range(20)]
    splits = {"train": ids[:40], "val": [ids[40], *ids[50:55]], "test": [ids[41], *ids[55:]]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    data = stream_of(shards, checkpoint, splits_from=str(tmp_path / "splits.json"), max_bad_share=1.0)
    assert not {*splits["val"], *splits["test"]} <= {*data.rows.ids}
    assert not {*splits["val"], *splits["test"]} & of_each_image(training_batches(data)["train"], "id").keys()


def test_a_cache_of_shards_that_cannot_be_written_is_a_mistake_that_names_it(shards, checkpoint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"^data\.path=.*can't be kept in data\.cache_dir=.*file"):
        stream_of(shards, checkpoint, cache_dir=str(tmp_path / "file"))


def test_an_epoch_of_a_stream_is_as_long_as_it_was_set(shards, checkpoint):
    assert len(training_batches(stream_of(shards, checkpoint))["train"]) == 20


def test_a_near_duplicate_of_a_held_out_image_is_not_trained_on(shards, checkpoint):
    tested = stream_of(shards, checkpoint).split_ids["test"][0]
    shard, number = tested.split("/")
    with tarfile.open(shards / "3.tar", "w") as tar:
        encoded = io.BytesIO()
        noise(100 * int(shard) + int(number)).resize((60, 60)).save(encoded, "JPEG", quality=90)
        for suffix, content in ((".jpg", encoded.getvalue()), (".txt", b"the same again")):
            member = tarfile.TarInfo(f"copy{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for near_duplicates, expected in ((True, False), (False, True)):
        data = stream_of(shards, checkpoint, stream_head=60, near_duplicates=near_duplicates)
        data.report.splits.update(val=[0], test=[data.rows.ids.index(tested)])
        assert ("3/copy" in of_each_image(training_batches(data)["train"], "id")) == expected


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"source": "creatures", "path": None}, r"^data\.streaming=true: .*creatures can't"),
        ({"limit": 5}, r"^data\.limit=5 and data\.streaming=true"),
    ],
)
def test_what_cannot_be_streamed_is_refused(shards, settings, line):
    with pytest.raises(UserError, match=line):
        CaptionDataModule(**({"path": str(shards), "streaming": True} | settings))
