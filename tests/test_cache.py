import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from rows import make_rows

from captioning.data import cache as module
from captioning.data.cache import data_fingerprint, decode_all, examine
from captioning.data.images import ImageSource, decode
from captioning.data.rows import Rows
from captioning.data.transforms import to_pixels
from captioning.errors import UserError
from captioning.models.processor import fit_images, make_image_processor

WEB_PAGE = b"<!DOCTYPE html><title>404 Not Found</title>"
PROCESSOR = make_image_processor(16)


def rows_of(folder: Path) -> Rows:
    """The PNG files of a folder."""
    files = sorted(folder.glob("*.png"))
    return rows_from(files, [ImageSource(bytes=None, path=str(file)) for file in files])


def rows_from(files, images) -> Rows:
    return make_rows(
        ids=[file.name for file in files],
        images=images,
        captions=[[f"image {file.stem}"] for file in files],
        splits=[None] * len(files),
        issues=[],
    )


@pytest.fixture
def three(tmp_path):
    """A folder of three different images."""
    folder = tmp_path / "three"
    folder.mkdir()
    for number, name in enumerate("abc"):
        values = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def how(tmp_path):
    return {"image_processor": PROCESSOR, "cache_dir": tmp_path / "cache"}


@pytest.fixture
def decoded(monkeypatch):
    """The images that are decoded, counted."""
    count = []
    opened = module.open_image
    monkeypatch.setattr(module, "open_image", lambda encoded: (count.append(1), opened(encoded))[1])
    return count


# ---------------------------------------------------------------- what is found


def test_usable_images_are_kept_as_they_are(three, how):
    rows = rows_of(three)
    assert list(decode_all(rows, **how).rows.table) == list(rows.table)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(lambda file: file.write_bytes(WEB_PAGE), "not an image", id="web page"),
        pytest.param(lambda file: file.write_bytes(b""), "empty file", id="empty"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-30]), "truncated", id="truncated"),
        pytest.param(lambda file: file.unlink(), "No such file", id="gone"),
    ],
)
def test_a_image_that_cannot_be_read_is_left_out_by_name_with_the_reason(three, how, damage, expected):
    rows = rows_of(three)
    damage(three / "b.png")
    examined = decode_all(rows, **how)
    assert examined.rows.ids == ["a.png", "c.png"]
    assert [problem.name for problem in examined.rows.issues] == ["b.png"]
    assert expected in examined.rows.issues[0].kind


def test_where_one_is_left_out_each_of_the_others_keeps_its_pixels(three, how):
    (three / "b.png").write_bytes(WEB_PAGE)
    examined = decode_all(rows_of(three), **how)
    expected = to_pixels(decode((three / "c.png").read_bytes()), PROCESSOR)
    assert (examined.pixels.read(examined.cache_index[[1]])[0].numpy() == expected).all()


def test_facts_tell_what_the_image_was_in_its_file(tmp_path, how):
    image = Image.new("L", (40, 20), 200)
    exif = image.getexif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "a.png", exif=exif)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "b.png", save_all=True, append_images=frames[1:])
    turned, animated = decode_all(rows_of(tmp_path), **how).facts
    assert (turned.width, turned.height, turned.mode, turned.turned, turned.frames) == (20, 40, "L", True, 1)
    assert (animated.mode, animated.turned, animated.frames) == ("RGB", False, 2)


def test_in_a_large_data_set_each_image_keeps_its_own_row(tmp_path, how):
    # More than are in memory at a time, the first and last of them damaged.
    Image.new("L", (1, 1)).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    files = [Path(f"{number:04d}") for number in range(2 * module.CHUNK + 3)]
    bad = {"0000", f"{module.CHUNK - 1:04d}", f"{module.CHUNK:04d}", files[-1].name}
    images = [ImageSource(bytes=WEB_PAGE if file.name in bad else good, path=None) for file in files]
    rows = decode_all(rows_from(files, images), **how).rows
    assert rows.ids == [file.name for file in files if file.name not in bad]
    assert {problem.name for problem in rows.issues} == bad


def test_a_processor_that_gives_images_of_different_shapes_is_refused(three, how):
    processor = make_image_processor(16)
    processor.do_center_crop = False
    with pytest.raises(UserError, match=r"different shapes.*data\.fit=crop"):
        examine(rows_of(three).table, **how | {"image_processor": processor})


# ---------------------------------------------------------------- read once


def test_the_second_time_nothing_is_decoded(three, how, decoded):
    first = decode_all(rows_of(three), **how)
    again = decode_all(rows_of(three), **how)
    assert len(decoded) == 3
    assert again.facts == first.facts
    assert all(map(torch.equal, again.pixels.read(range(3)), first.pixels.read(range(3))))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda file: Image.new("RGB", (20, 24), "#123456").save(file), id="another image"),
        pytest.param(
            lambda file: (file.write_bytes(file.read_bytes()[:-1] + b"\0"), os.utime(file, (0, 0))),
            id="of the same size, dated back",
        ),
        pytest.param(lambda file: shutil.copy(file, file.with_name("d.png")), id="one more"),
        pytest.param(lambda file: file.unlink(), id="one less"),
    ],
)
def test_when_the_images_change_they_are_read_again(three, how, decoded, change):
    os.utime(three / "b.png", (0, 0))
    examine(rows_of(three).table, **how)
    decoded.clear()
    change(three / "b.png")
    rows = rows_of(three)
    examine(rows.table, **how)
    assert len(decoded) == len(rows.table)


def test_images_in_a_table_are_told_apart_by_their_bytes(three, how, decoded):
    files = sorted(three.glob("*.png"))
    contents = [file.read_bytes() for file in files]
    for order in ((0, 1, 2), (0, 1, 2), (1, 0, 2)):
        rows = rows_from(files, [ImageSource(bytes=contents[number], path=None) for number in order])
        found = decode_all(rows, **how)
    assert len(decoded) == 6
    assert (found.pixels.read([0])[0].numpy() == to_pixels(decode(contents[1]), PROCESSOR)).all()


def test_another_processor_has_pixels_of_its_own(three, how):
    squash = make_image_processor(16)
    fit_images(squash, "squash")
    for processor in (PROCESSOR, squash, PROCESSOR):
        _, pixels = examine(rows_of(three).table, **how | {"image_processor": processor})
        expected = to_pixels(decode((three / "a.png").read_bytes()), processor)
        assert (pixels.read([0])[0].numpy() == expected).all()


def test_what_one_processor_cannot_resize_is_not_left_out_for_another(tmp_path, how):
    Image.new("RGB", (1000, 1)).save(tmp_path / "line.png")
    pad = make_image_processor(16)
    fit_images(pad, "pad")
    troubles = [
        bool(examine(rows_of(tmp_path).table, **how | {"image_processor": processor})[0][0].trouble)
        for processor in (pad, PROCESSOR, pad)
    ]
    assert troubles == [True, False, True]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_a_damaged_file_of_the_cache_is_made_again(three, how, decoded, suffix):
    examine(rows_of(three).table, **how)
    (file,) = how["cache_dir"].glob(f"*.{suffix}")
    file.write_bytes(file.read_bytes()[:-100])
    decoded.clear()
    assert len(examine(rows_of(three).table, **how)[0]) == len(decoded) == 3


def test_a_cache_that_is_emptied_while_it_is_used_goes_on_to_be_read(three, how):
    _, pixels = examine(rows_of(three).table, **how)
    shutil.rmtree(how["cache_dir"])
    assert (pixels.read([0])[0].numpy() == to_pixels(decode((three / "a.png").read_bytes()), PROCESSOR)).all()


def test_images_within_a_file_are_told_by_the_file_without_reading_them(three, tmp_path, how, decoded):
    table = rows_from(
        [Path("a"), Path("b")], [ImageSource(bytes=(three / f"{name}.png").read_bytes(), path=None) for name in "ab"]
    ).table
    table.save_to_disk(tmp_path / "saved")
    for _ in range(2):
        examine(datasets.load_from_disk(tmp_path / "saved"), **how)
    assert len(decoded) == 2
    examine(datasets.load_from_disk(tmp_path / "saved").select([1]), **how)
    assert len(decoded) == 3


def test_without_pixels_what_was_found_is_kept_all_the_same(three, how, decoded):
    for _ in range(2):
        assert examine(rows_of(three).table, **how, keep_pixels=False)[1] is None
    assert len(decoded) == 3
    assert not list(how["cache_dir"].glob("*.npy"))


def test_the_size_is_told_before_anything_is_read(three, how, said):
    examine(rows_of(three).table, **how)
    assert f"reading 3 images once; their pixels, 2.3 kB, are kept in {how['cache_dir']}" in said.text


# ---------------------------------------------------------------- no room


@pytest.fixture
def full(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=4000)  # bytes; the pixels take 2304, more than half
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_what_would_take_most_of_the_free_disk_is_not_kept(three, how, full, said):
    assert examine(rows_of(three).table, **how)[1] is None
    assert "would take 2.3 kB of the 4.0 kB that are free" in said.text


def test_unless_it_is_asked_for(three, how, full):
    assert examine(rows_of(three).table, **how, keep_pixels=True)[1] is not None


def test_what_cannot_fit_is_refused_when_it_is_asked_for(three, how, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        UserError, match=r"^data\.cache=true: .* take 2\.3 kB, and 2\.0 kB are free.*data\.cache_dir=DIR"
    ):
        examine(rows_of(three).table, **how, keep_pixels=True)


def test_a_cache_that_cannot_be_written_is_done_without(three, how, said):
    how["cache_dir"].write_text("a file where the folder should be")
    facts, pixels = examine(rows_of(three).table, **how)
    assert (len(facts), pixels) == (3, None)
    assert "what was read can't be kept" in said.text


def test_a_cache_that_cannot_be_written_is_refused_when_it_is_asked_for(three, how):
    how["cache_dir"].write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"data\.cache_dir=.* can't be kept .*data\.cache=false"):
        examine(rows_of(three).table, **how, keep_pixels=True)


# ---------------------------------------------------------------- two processes, and killed ones


def _examine_and_report(folder: Path, cache: Path, queue) -> None:
    opened, count = module.open_image, []
    module.open_image = lambda encoded: (count.append(1), time.sleep(0.2), opened(encoded))[2]
    _, pixels = examine(rows_of(folder).table, image_processor=PROCESSOR, cache_dir=cache)
    queue.put((len(count), int(torch.stack(pixels.read(range(3))).sum())))


def test_of_two_processes_one_reads_and_the_other_waits(three, how):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_examine_and_report, args=(three, how["cache_dir"], queue)) for _ in range(2)]
    for process in processes:
        process.start()
    (one, its_pixels), (other, other_pixels) = queue.get(timeout=60), queue.get(timeout=60)
    for process in processes:
        process.join()
    assert sorted((one, other)) == [0, 3]
    assert its_pixels == other_pixels


def test_a_process_that_is_killed_leaves_nothing_that_is_taken_for_whole(three, how, decoded):
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_examine import examine, module, rows_of, PROCESSOR
opened = module.open_image
module.open_image = lambda encoded: (print("reading", flush=True), opened(encoded), time.sleep(60))[1]
examine(rows_of(Path({str(three)!r})).table, image_processor=PROCESSOR, cache_dir=Path({str(how["cache_dir"])!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(how["cache_dir"].glob("*.npy"))
    expected = to_pixels(decode((three / "c.png").read_bytes()), PROCESSOR)
    _, pixels = examine(rows_of(three).table, **how)
    assert (pixels.read([2])[0].numpy() == expected).all()
    assert not list(how["cache_dir"].glob(".*.part"))


# ---------------------------------------------------------------- the fingerprint of the data


def fingerprint(folder: Path, tmp_path: Path, **changes) -> str:
    rows = rows_of(folder)
    if changes:
        rows = Rows(rows.table.map(lambda row: row | changes))
    examined = decode_all(rows, image_processor=PROCESSOR, cache_dir=tmp_path / "cache")
    return data_fingerprint(examined.rows, examined.facts)


def test_the_fingerprint_does_not_depend_on_where_the_images_are(three, tmp_path):
    before = fingerprint(three, tmp_path)
    assert fingerprint(three.rename(tmp_path / "elsewhere"), tmp_path) == before


@pytest.mark.parametrize("changes", [{"captions": ["something else"]}, {"split": "test"}], ids=json.dumps)
def test_the_fingerprint_changes_with_captions_and_splits(three, tmp_path, changes):
    assert fingerprint(three, tmp_path, **changes) != fingerprint(three, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda folder: Image.new("RGB", (4, 4), "#ff0001").save(folder / "b.png"), id="pixel"),
        pytest.param(lambda folder: (folder / "b.png").unlink(), id="image gone"),
        pytest.param(lambda folder: (folder / "b.png").write_bytes(WEB_PAGE), id="image damaged"),
        pytest.param(lambda folder: shutil.copy(folder / "b.png", folder / "d.png"), id="image added"),
        pytest.param(lambda folder: (folder / "c.png").rename(folder / "z.png"), id="name"),
    ],
)
def test_the_fingerprint_changes_with_the_images(three, tmp_path, change):
    before = fingerprint(three, tmp_path)
    change(three)
    assert fingerprint(three, tmp_path) != before
