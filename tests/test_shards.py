import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tars import jpeg, write_shards, write_tar

from captioning.data.images import decode, read_bytes
from captioning.data.rows import Columns
from captioning.data.shards import OPEN_SHARDS, Shards, read_head, read_shards
from captioning.data.sources.tars import tar_shards
from captioning.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", 3, 2)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def one(tmp_path, *members) -> Path:
    return write_tar(tmp_path / "one.tar", members)


def test_shards_as_a_table(folder, cache):
    rows = read_shards(tar_shards(str(folder)), cache_dir=cache)
    assert rows.ids == ["0/000", "0/001", "0/002", "1/000", "1/001"]
    assert rows.captions[4] == ["row 1 of shard 1"]
    assert decode(read_bytes(rows.table[4]["image"])).size == (8, 8)


def test_rows_of_a_table_are_sorted_by_id(tmp_path, cache):
    path = one(tmp_path, *((f"{name}.{s}", c) for name in "bac" for s, c in (("jpg", jpeg()), ("txt", name))))
    rows = read_shards(tar_shards(str(path)), cache_dir=cache)
    assert rows.ids == ["one/a", "one/b", "one/c"]
    assert rows.captions == [["a"], ["b"], ["c"]]


def test_a_table_is_copied_once_and_remembers_what_was_left_out(folder, cache):
    write_tar(folder / "2.tar", [("x.jpg", jpeg())])
    first = read_shards(tar_shards(str(folder)), cache_dir=cache)
    for tar in folder.iterdir():  # of the same size and time, and nothing in it
        times = tar.stat()
        tar.write_bytes(bytes(times.st_size))
        os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = read_shards(tar_shards(str(folder)), cache_dir=cache)
    assert second.ids == first.ids
    assert second.issues == first.issues == (("image without a caption", "2/x"),)


def test_of_a_table_missing_shards_are_named(folder, cache):
    rows = read_shards(tar_shards(str(folder / "{0..2}.tar")), cache_dir=cache)
    assert rows.issues == (("shard is missing", str(folder / "2.tar")),)


def test_a_shard_that_has_changed_is_copied_anew(folder, cache):
    read_shards(tar_shards(str(folder)), cache_dir=cache)
    write_tar(folder / "0.tar", [("new.jpg", jpeg()), ("new.txt", "y")])
    assert read_shards(tar_shards(str(folder)), cache_dir=cache).ids[0] == "0/new"


def test_other_columns_are_read_anew(tmp_path, cache):
    path = one(tmp_path, ("x.jpg", jpeg()), ("x.txt", "y"), ("x.alt", "z"))
    read_shards(tar_shards(str(path)), cache_dir=cache)
    assert read_shards(tar_shards(str(path), columns=Columns(caption="alt")), cache_dir=cache).captions == [["z"]]


def test_of_two_rows_with_one_id_the_first_is_kept(tmp_path, cache):
    members = [(f"{name}.{s}", c) for name in "xzx" for s, c in (("jpg", jpeg()), ("txt", name))]
    rows = read_shards(tar_shards(str(one(tmp_path, *members))), cache_dir=cache)
    assert rows.ids == ["one/x", "one/z"]
    assert rows.issues == (("id of an earlier row", "one/x"),)


def test_shards_without_a_usable_row_are_refused_with_what_is_wrong(tmp_path, cache):
    path = one(tmp_path, ("a.jpg", jpeg()), ("b.txt", "y"))
    with pytest.raises(UserError) as caught:
        read_shards(tar_shards(str(path)), cache_dir=cache)
    assert str(caught.value) == (
        f"data.path={path}: no captioned image in its 1 shards: 1 x image without a caption: one/a; 1 x caption "
        "without an image: one/b"
    )


def test_the_head_has_rows_of_all_shards(folder, cache):
    assert read_head(tar_shards(str(folder)), 2, cache_dir=cache).ids == ["0/000", "1/000"]


def test_the_head_goes_on_where_shards_have_ended(folder, cache):
    assert len(read_head(tar_shards(str(folder)), 99, cache_dir=cache).ids) == 5


def test_the_head_of_many_shards_is_of_some_that_are_spread_evenly(tmp_path, cache):
    shards = tar_shards(str(write_shards(tmp_path, *[1] * (2 * OPEN_SHARDS))))
    first = [int(name.partition("/")[0]) for name in read_head(shards, OPEN_SHARDS, cache_dir=cache).ids]
    assert sorted(first) == sorted(int(shards.labels[2 * place][:-4]) for place in range(OPEN_SHARDS))
    assert len(read_head(shards, 99, cache_dir=cache).ids) == 2 * OPEN_SHARDS


def test_the_head_is_as_long_as_it_was_asked_for_each_time(folder, cache):
    shards = tar_shards(str(folder))
    assert [len(read_head(shards, count, cache_dir=cache).ids) for count in (2, 3)] == [2, 3]


@pytest.fixture
def passing(folder) -> str:
    """Two shards, one of them by a command that will fail as long as there is no file ``there``."""
    command = f"pipe:test -e {folder / 'there'} && cat {folder / '1.tar'}"
    return f"{folder / '0.tar'}::{command}"


def test_a_command_that_failed_is_tried_again_by_the_next_run(folder, cache, passing):
    first = read_shards(tar_shards(passing), cache_dir=cache)
    assert (len(first.table), len(first.issues)) == (3, 1)
    (folder / "there").touch()
    second = read_shards(tar_shards(passing), cache_dir=cache)
    assert (len(second.table), second.issues) == (5, ())


def test_processes_that_train_together_have_the_same_rows_whatever_failed(folder, cache, passing, monkeypatch):
    first = read_head(tar_shards(passing), 99, cache_dir=cache)
    (folder / "there").touch()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert read_head(tar_shards(passing), 99, cache_dir=cache).ids == first.ids


def test_processes_that_wait_for_a_copy_take_it_whatever_failed(folder, cache):
    log = folder / "log"
    shards = tar_shards(f"{folder / '0.tar'}::pipe:echo asked >> {log}; sleep 0.5; exit 3")
    with ThreadPoolExecutor() as threads:
        copies = list(threads.map(lambda _: read_shards(shards, cache_dir=cache), range(2)))
    assert copies[0].ids == copies[1].ids
    assert log.read_text() == "asked\n"


def test_of_copies_that_lack_something_one_is_kept(cache, passing):
    for _ in range(3):
        read_shards(tar_shards(passing), cache_dir=cache)
    assert len(list(cache.glob("*.arrow"))) == len(list(cache.glob("*.json"))) == 1


def test_a_damaged_shard_on_this_machine_is_read_once(folder, cache):
    (folder / "1.tar").write_bytes(b"no tar at all" * 100)
    for _ in range(2):
        table = read_shards(tar_shards(str(folder)), cache_dir=cache).table
        assert table.cache_files[0]["filename"] == str(*cache.glob("all-*.arrow"))
    assert len(next(cache.glob("all-*.arrow")).stem) == len("all-") + 32


@pytest.mark.parametrize("deleted", ["*.issues.json", "*.arrow", "*.lock"])
def test_whichever_file_of_a_copy_is_deleted_it_is_made_anew(folder, cache, deleted):
    write_tar(folder / "2.tar", [("x.jpg", jpeg())])
    first = read_shards(tar_shards(str(folder)), cache_dir=cache)
    for file in cache.glob(deleted):
        file.unlink()
    second = read_shards(tar_shards(str(folder)), cache_dir=cache)
    assert (second.ids, second.issues) == (first.ids, first.issues)


def test_the_head_takes_turns_over_the_splits_that_are_known(folder, cache):
    tars = tar_shards(str(folder))

    def read(index, report):
        for row in tars.read(0, report):
            yield {**row, "id": f"{index}/{row['id']}"}

    splits = (*["train"] * 20, "val", "test")
    shards = Shards("p", tuple(map(str, range(22))), "f", read, splits=splits)
    head = read_head(shards, 6, cache_dir=cache)
    assert sorted(name.partition("/")[0] for name in head.ids) == ["0", "20", "20", "21", "21", "4"]
    assert shards.for_training == list(range(20))
