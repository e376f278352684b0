import logging
import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import islice, takewhile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import jpeg, write_shards, write_tar

from captioning.data.dataset import Sample
from captioning.data.images import decode, read_bytes
from captioning.data.shards import Shards
from captioning.data.sources.tars import tar_shards
from captioning.data.stream import Reader, StreamDataset, StreamLoader
from captioning.errors import UserError

SIZES = (7, 12, 3, 9, 4)
ROWS = sum(SIZES)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return tar_shards(str(write_shards(tmp_path_factory.mktemp("shards"), *SIZES)))


def sample_of(row, seed) -> Sample | None:
    decode(read_bytes(row["image"]))
    if row["captions"] == ["near-duplicate"]:
        return None
    captions = row["captions"]
    pixels = torch.zeros(3, 2, 2, dtype=torch.uint8)
    return Sample(
        row=0, id=row["id"], pixels=pixels, captions=captions, references=captions, seed=seed, is_padding=False
    )


def summed_up(samples) -> list[tuple[str, int, bool]]:
    return [(sample["id"], sample["seed"], sample["is_padding"]) for sample in samples]


def loader(shards, *, workers=0, epoch_batches=1000, make_sample=sample_of, **settings) -> StreamLoader:
    dataset = StreamDataset(shards, make_sample, **{"batch_size": 4, "buffer": 5, **settings})
    return StreamLoader(dataset, epoch_batches=epoch_batches, num_workers=workers, collate_fn=summed_up)


def first_pass(reader: Reader, number: int = 0) -> list[str]:
    visits = takewhile(lambda visit: visit.pass_number <= number, reader.rows())
    return [visit.row["id"] for visit in visits if visit.pass_number == number]


# ------------------------------------------------------------ who reads what, and in which order


@pytest.mark.parametrize("pass_number", [0, 1, 2])
@pytest.mark.parametrize("readers", [1, 2, 3, 5, 8])
def test_every_row_is_visited_exactly_once_in_each_pass_of_all_readers(shards, readers, pass_number):
    visited = [row for number in range(readers) for row in first_pass(Reader(shards, number, readers), pass_number)]
    assert sorted(visited) == [f"{shard}/{row:03d}" for shard, size in enumerate(SIZES) for row in range(size)]


@pytest.mark.parametrize("readers", [2, 3, 4, 5, 6, 11])
def test_of_equal_shards_every_reader_gets_an_equal_share(tmp_path, readers):
    shards = tar_shards(str(write_shards(tmp_path, *[12] * 5)))
    shares = [len(first_pass(Reader(shards, number, readers))) for number in range(readers)]
    assert max(shares) - min(shares) <= 5  # a row of each shard


def test_of_fewer_rows_than_readers_each_reader_gets_some_in_time(tmp_path):
    shards = tar_shards(str(write_shards(tmp_path, 3)))
    for number in range(8):
        assert len(list(islice(Reader(shards, number, 8).rows(), 6))) == 6


def test_rows_of_different_shards_are_mixed_where_the_buffer_allows(shards):
    first = {row.split("/")[0] for row in first_pass(Reader(shards, buffer=1000))[:7]}
    assert len(first) > 2


def order(shards, **settings) -> list[str]:
    return [visit.row["id"] for visit in islice(Reader(shards, **settings).rows(), ROWS)]


def test_the_same_seed_gives_the_same_order(shards):
    assert order(shards, seed=3) == order(shards, seed=3)


def test_another_seed_gives_another_order(shards):
    assert order(shards, seed=3) != order(shards, seed=4)


def test_another_pass_has_another_order(shards):
    reader = Reader(shards)
    assert first_pass(reader, 0) != first_pass(reader, 1)


def test_another_pass_has_another_order_of_shards(shards):
    orders = [tuple(dict.fromkeys(row[0] for row in first_pass(Reader(shards, buffer=1), n))) for n in range(3)]
    assert len(set(orders)) == 3


def test_no_two_visits_share_a_seed(shards):
    seeds = [visit.seed for visit in islice(Reader(shards).rows(), 5 * ROWS)]
    assert len(set(seeds)) == len(seeds)


@settings(deadline=None, max_examples=50)  # files are read
@given(start=st.integers(0, 4 * ROWS), readers=st.integers(1, 4), buffer=st.integers(1, 50))
def test_a_reader_goes_on_at_any_visit(shards, start, readers, buffer):
    visits = list(islice(Reader(shards, 0, readers, buffer=buffer).rows(), start + 9))
    assert list(islice(Reader(shards, 0, readers, buffer=buffer).rows(start), 9)) == visits[start:]


def test_to_go_on_in_a_late_pass_every_shard_is_read_no_more_than_twice(shards):
    reads: Counter[int] = Counter()

    def counted(index, report):
        reads[index] += 1
        return shards.read(index, report)

    next(Reader(replace(shards, read=counted), buffer=5).rows(50 * ROWS + 20))
    assert max(reads.values()) <= 2


def test_rows_that_the_data_give_to_another_split_are_not_visited(tmp_path):
    splits = ["train", "val", "test", None]
    members = ((f"{n}.{s}", c) for n, split in enumerate(splits) for s, c in row_of("x", split))
    shards = tar_shards(str(write_tar(tmp_path / "a.tar", members)))
    assert sorted(first_pass(Reader(shards))) == ["a/0", "a/3"]


def row_of(caption: str, split: str | None, image: bytes | None = None):
    split_of_row = f', "split": "{split}"' if split else ""
    return ("jpg", jpeg() if image is None else image), ("json", f'{{"caption": "{caption}"{split_of_row}}}')


def test_held_out_rows_are_not_visited(shards):
    reader = Reader(shards, is_held_out=lambda row: row["id"].startswith("1/"))
    assert {row[0] for row in first_pass(reader)} == {"0", "2", "3", "4"}


def test_a_stream_of_nothing_but_held_out_rows_is_refused_and_not_read_for_ever(shards):
    with pytest.raises(UserError, match=r"data\.path=.*: no row to train on in its 5 shards"):
        next(Reader(shards, 0, 3, is_held_out=lambda row: True).rows())


# ------------------------------------------------------------ samples and batches


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_together_visit_every_row_once_in_a_pass(shards, workers):
    seen = Counter()
    for rank in range(2):
        batches = loader(shards, workers=workers, rank=rank, world_size=2, batch_size=1)
        seen.update(name for ((name, _, _),) in islice(batches, ROWS // 3))
    assert set(seen.values()) == {1}  # within a pass, whichever process is ahead


@pytest.mark.parametrize("start", [1, 2, 7, 16, 31])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_starts_later_goes_on_as_one_that_never_stopped(damaged, workers, start):
    whole = list(islice(loader(damaged, workers=workers, world_size=2, rank=1), start + 6))
    rest = list(islice(loader(damaged, workers=workers, world_size=2, rank=1, start_batch=start), 6))
    assert rest == whole[start:]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Every third image can't be decoded."""
    folder = tmp_path_factory.mktemp("damaged")
    for shard in range(3):
        members = (
            (f"{n:02d}.{s}", c) for n in range(11) for s, c in row_of("x", None, b"no image" if n % 3 == 0 else None)
        )
        write_tar(folder / f"{shard}.tar", members)
    return tar_shards(str(folder))


def test_what_is_skipped_is_not_decoded(shards):
    made = []

    def counted(row, seed):
        made.append(row["id"])
        return sample_of(row, seed)

    next(iter(loader(shards, make_sample=counted, start_batch=20)))
    assert len(made) == 4


def test_in_place_of_a_image_that_cannot_be_decoded_the_next_one_comes_twice_and_counts_once(damaged):
    samples = [sample for batch in islice(loader(damaged), 10) for sample in batch]
    padding = [number for number, (_, _, is_padding) in enumerate(samples[:-3]) if is_padding]
    assert padding
    assert all(samples[number][0] == samples[number + 1][0] for number in padding)
    assert all(int(name[2:]) % 3 for name, _, _ in samples)


def test_a_near_duplicate_of_a_held_out_image_leaves_its_place_to_the_next(tmp_path):
    captions = ["near-duplicate", "x"]
    members = ((f"{n}.{s}", c) for n, caption in enumerate(captions) for s, c in row_of(caption, None))
    batches = loader(tar_shards(str(write_tar(tmp_path / "a.tar", members))), batch_size=2)
    names = {(name, is_padding) for batch in islice(batches, 6) for name, _, is_padding in batch}
    assert names == {("a/1", True), ("a/1", False)}


def test_the_first_image_that_is_left_out_is_named(damaged, caplog):
    with caplog.at_level(logging.WARNING, "captioning"):
        next(iter(loader(damaged)))
    assert "image can't be read: not an image" in caplog.text


def test_later_ones_are_counted_with_a_line_for_ten_times_as_many(damaged, caplog):
    with caplog.at_level(logging.WARNING, "captioning"):
        list(islice(loader(damaged), 40))  # of 160 images 53 are left out
    assert len(caplog.messages) == 2
    assert "left out so far: 10" in caplog.messages[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_many_unusable_images_in_sequence_stop_the_stream_in_one_line(tmp_path, workers):
    folder = write_shards(tmp_path, 60, 60, image=b"no image")
    with pytest.raises(UserError) as caught:
        next(iter(loader(tar_shards(str(folder)), workers=workers)))
    assert str(caught.value).startswith(
        f"data.path={folder}: 100 images in sequence can't be used: 100 x image can't be read: not an image"
    )
    assert "\n" not in str(caught.value)


def test_memory_holds_the_buffer_and_not_the_data(tmp_path):
    image = jpeg() + bytes(20_000)
    shards = tar_shards(str(write_shards(tmp_path, 100, 100, image=image)))
    batches = iter(loader(shards, buffer=20))
    next(batches)  # with it come imports
    tracemalloc.start()
    for _ in islice(batches, 45):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * len(image)


# ------------------------------------------------------------ epochs


def test_the_next_epoch_goes_on_where_the_last_one_stopped(shards):
    whole = list(islice(loader(shards), 9))
    epochs = loader(shards, epoch_batches=3)
    assert [batch for _ in range(3) for batch in epochs] == whole


def test_an_epoch_has_a_length(shards):
    assert len(loader(shards, epoch_batches=3)) == 3
