from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from captioning.data.hub_shards import hub_shards
from captioning.data.images import decode, read_bytes
from captioning.data.rows import Columns
from captioning.data.shards import Shards, read_head
from captioning.data.stream import Reader
from captioning.errors import UserError

IMAGE, TEXT = datasets.Image(), datasets.Value("string")
RED = Image.new("RGB", (4, 4), "red")


def write(folder: Path, file: str = "train.parquet", features=None, row_group: int = 1000, **columns) -> Path:
    """A repository of the Hub as most have it, on this machine."""
    folder.mkdir(exist_ok=True)
    features = datasets.Features(features or {"image": IMAGE, "text": TEXT})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / file, batch_size=row_group)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write(tmp_path / "name", "train-00000-of-00002.parquet", image=[RED] * 3, text=["a", " b\nb", "c"])
    return write(tmp_path / "name", "train-00001-of-00002.parquet", image=[RED] * 2, text=["d", "e"])


def read(folder: Path, **settings) -> tuple[list, list]:
    shards, issues = hub_shards(str(folder), **settings), []
    return [row for index in range(len(shards)) for row in shards.read(index, issues.append)], issues


def mistake(folder: Path | str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        hub_shards(str(folder), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_row_is_a_image_with_its_captions(repository):
    rows, _ = read(repository)
    assert [row["captions"] for row in rows] == [["a"], ["b b"], ["c"], ["d"], ["e"]]
    assert decode(read_bytes(rows[0]["image"])).getpixel((0, 0)) == (255, 0, 0)


def test_a_row_is_known_by_its_split_its_shard_and_its_number(repository):
    assert [row["id"] for row in read(repository)[0]][2:4] == ["train-00000-000002", "train-00001-000000"]


def test_of_a_few_large_files_parts_are_read_apart(tmp_path):
    write(tmp_path / "name", row_group=2, image=[RED] * 5, text=list("abcde"))
    assert len(hub_shards(str(tmp_path / "name"))) == 3


def test_columns_of_other_names_can_be_given(tmp_path):
    features = {"id": IMAGE, "alt": TEXT, "text": TEXT, "patient": TEXT, "key": TEXT}
    write(tmp_path / "name", features=features, id=[RED], alt=["x"], text=["no"], patient=["p"], key=["k"])
    (row,), _ = read(tmp_path / "name", columns=Columns(image="id", caption="alt", group="patient", id="key"))
    assert (row["id"], row["captions"], row["group"]) == ("k", ["x"], "p")


def test_a_stratum_may_be_a_class(tmp_path):
    features = {"image": IMAGE, "text": TEXT, "kind": datasets.ClassLabel(names=["cat", "dog"])}
    write(tmp_path / "name", features=features, image=[RED], text=["x"], kind=[1])
    (row,), _ = read(tmp_path / "name", columns=Columns(stratify="kind"))
    assert row["stratum"] == "dog"


def test_a_missing_class_is_none_and_a_number_of_no_class_stays_a_number(tmp_path):
    features = {"image": IMAGE, "text": TEXT, "kind": datasets.ClassLabel(names=["cat", "dog"])}
    folder = write(tmp_path / "name", features=features, image=[RED] * 4, text=["x"] * 4, kind=[0, 0, 0, 1])
    table = pq.read_table(folder / "train.parquet")
    kinds = pa.array([-1, None, 7, 1], pa.int64())
    pq.write_table(table.set_column(2, table.schema.field("kind"), kinds), folder / "train.parquet")
    rows, issues = read(folder, columns=Columns(stratify="kind"))
    assert [row["stratum"] for row in rows] == [None, None, "7", "dog"]
    assert issues == []


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A repository with five rows for training, three for validation, and two for the test."""
    write(tmp_path / "name", "train.parquet", image=[RED] * 5, text=list("abcde"))
    write(tmp_path / "name", "validation.parquet", image=[RED] * 3, text=list("xyz"))
    return write(tmp_path / "name", "test.parquet", image=[RED] * 2, text=list("pq"))


def test_the_splits_of_the_repository_are_respected(split):
    rows, _ = read(split)
    assert [(row["split"], row["captions"]) for row in rows if row["split"] != "train"] == [
        *(("val", [caption]) for caption in "xyz"),
        *(("test", [caption]) for caption in "pq"),
    ]


def test_the_head_has_rows_of_each_split(split, tmp_path):
    head = read_head(hub_shards(str(split)), 6, cache_dir=tmp_path / "cache")
    assert sorted(head.table["split"]) == ["test", "test", "train", "train", "val", "val"]


def test_which_shards_are_for_training_is_known_before_one_is_read(split):
    shards = hub_shards(str(split))
    assert [shards.labels[index] for index in shards.for_training] == ["train-00000"]


def test_a_column_of_splits_goes_before_the_repositorys_own(tmp_path):
    features = {"image": IMAGE, "text": TEXT, "split": TEXT}
    splits = ["train", "restval", "val", None, "other"]
    write(tmp_path / "name", "test.parquet", features=features, image=[RED] * 5, text=["x"] * 5, split=splits)
    rows, issues = read(tmp_path / "name")
    assert [row["split"] for row in rows] == ["train", "train", "val", "test"]
    assert issues == [("unknown split 'other'", "test-00000-000004")]
    assert len(hub_shards(str(tmp_path / "name")).for_training) == 1


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """A repository with a split that is no usual one."""
    folder = tmp_path / "name"
    folder.mkdir()
    write(folder / "data", "extra-00000-of-00001.parquet", image=[RED], text=["v"])
    return folder


def test_a_split_of_another_name_is_left_out_and_named(extra):
    write(extra / "data", "train-00000-of-00001.parquet", image=[RED], text=["x"])
    shards = hub_shards(str(extra))
    assert shards.labels == ("train-00000",)
    assert shards.issues == (("unknown split 'extra'", "extra"),)


def test_nothing_but_splits_of_other_names_is_refused(extra):
    message = mistake(extra)
    assert "its rows are in extra, not in train, val or test; data.split_column=COLUMN" in message


def test_images_that_are_files_of_the_repository_are_read(tmp_path):
    (tmp_path / "train").mkdir()
    RED.save(tmp_path / "train" / "a.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\na.png,x\n")
    (row,), _ = read(tmp_path)
    assert decode(read_bytes(row["image"])).size == (4, 4)


def test_bad_rows_are_left_out_by_name(tmp_path):
    write(tmp_path / "name", image=[RED, None, RED, RED], text=["x", "y", None, " "])
    rows, issues = read(tmp_path / "name")
    assert [row["captions"] for row in rows] == [["x"]]
    assert issues == [
        ("caption without an image", "train-00000-000001"),
        ("image without a caption", "train-00000-000002"),
        ("empty caption", "train-00000-000003"),
    ]


@pytest.mark.parametrize("path", ["/etc/hostname", "{folder}/../outside.png", "file:///etc/hostname::{folder}/a.zip"])
def test_nothing_outside_of_the_repository_is_read(tmp_path, path):
    RED.save(tmp_path / "outside.png")
    folder = tmp_path / "name"
    folder.mkdir()
    cell = {"bytes": None, "path": path.format(folder=folder)}
    schema = datasets.Features(image=IMAGE, text=TEXT).arrow_schema
    pq.write_table(pa.table({"image": [cell], "text": ["x"]}, schema=schema), folder / "train.parquet")
    assert read(folder) == ([], [("image outside of the data folder", "train-00000-000000")])


def test_of_a_damaged_file_what_can_be_read_is_read(tmp_path):
    folder = write(tmp_path / "name", "train-00000-of-00002.parquet", image=[RED], text=["x"])
    content = bytearray((folder / "train-00000-of-00002.parquet").read_bytes())
    content[10:60] = bytes(50)
    (folder / "train-00001-of-00002.parquet").write_bytes(content)
    rows, issues = read(folder)
    assert len(rows) == 1
    assert [(kind.partition(":")[0], name) for kind, name in issues] == [
        ("shard can't be read to its end", "train-00001")
    ]


def test_a_file_that_was_cut_is_left_out(repository):
    second = repository / "train-00001-of-00002.parquet"
    second.write_bytes(second.read_bytes()[:-100])
    rows, issues = read(repository)
    assert len(rows) == 3
    assert [name for _, name in issues] == ["train-00001"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"subset": "fr"}, "data.subset=fr (BuilderConfig 'fr'", id="no such subset"),
        pytest.param(
            {"columns": Columns(caption="texts")},
            "(train); did you mean text?",
            id="no such column of captions",
        ),
        pytest.param({"columns": Columns(image="text")}, "has Value('string') there, no images", id="no images"),
    ],
)
def test_a_mistake_is_answered_with_what_there_is(repository, settings, expected):
    assert expected in mistake(repository, **settings)


def test_a_hub_that_cannot_be_reached_is_answered_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    message = mistake("user/name")
    assert message.startswith("data.path=user/name: is not in the local cache")
    assert message.endswith("or tar shards on this machine with data.path=FOLDER")


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Path:
    """The folder of user/name in a cache of the Hub, which can't be reached."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder, commit = tmp_path / "hub" / "datasets--user--name", "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    return folder / "snapshots" / commit


def test_without_the_hub_a_data_set_in_the_cache_is_read(cached):
    write(cached, image=[RED], text=["x"])
    assert len(read(Path("user/name"))[0]) == 1


def test_images_that_the_cache_keeps_beside_the_data_set_are_read(cached):
    blobs = cached.parents[1] / "blobs"
    blobs.mkdir()
    RED.save(blobs / "a", "PNG")
    (cached / "a.png").symlink_to(blobs / "a")
    (cached / "metadata.csv").write_text("file_name,text\na.png,x\n")
    assert len(read(Path("user/name"))[0]) == 1


def test_the_head_is_taken_from_all_files(repository, tmp_path):
    head = read_head(hub_shards(str(repository)), 2, cache_dir=tmp_path / "cache")
    assert head.ids == ["train-00000-000000", "train-00001-000000"]


class Ids(IterableDataset[str]):
    """What the workers of a loader read, each as one reader."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __iter__(self):
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        for visit in Reader(self.shards, info.id, info.num_workers).rows():
            if visit.pass_number > 0:
                return
            yield visit.row["id"]


def test_worker_processes_together_read_every_row_once(repository):
    ids = list(DataLoader(Ids(hub_shards(str(repository))), batch_size=None, num_workers=3))
    assert sorted(ids) == [f"train-00000-{row:06d}" for row in range(3)] + [f"train-00001-{row:06d}" for row in (0, 1)]
