import json
import multiprocessing
import os
import pickle
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
from captioning.data.cache import ImageCache, create_image_cache, data_fingerprint, decode_all
from captioning.data.images import ImageSource, decode
from captioning.data.rows import Rows
from captioning.data.transforms import to_pixels
from captioning.errors import UserError
from captioning.models.processor import fit_images, make_image_processor

WEB_PAGE = b"<!DOCTYPE html><title>404 Not Found</title>"
PROCESSOR = make_image_processor(16)
SHAPE = (3, 4, 5)


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
def test_an_image_that_cannot_be_read_is_left_out_by_name_with_the_reason(three, how, damage, expected):
    rows = rows_of(three)
    damage(three / "b.png")
    decoded_rows = decode_all(rows, **how)
    assert decoded_rows.rows.ids == ["a.png", "c.png"]
    assert [problem.name for problem in decoded_rows.rows.issues] == ["b.png"]
    assert expected in decoded_rows.rows.issues[0].kind


def test_where_one_is_left_out_each_of_the_others_keeps_its_pixels(three, how):
    (three / "b.png").write_bytes(WEB_PAGE)
    decoded_rows = decode_all(rows_of(three), **how)
    expected = to_pixels(decode((three / "c.png").read_bytes()), PROCESSOR)
    assert (decoded_rows.image_cache.read(decoded_rows.cache_index[[1]])[0].numpy() == expected).all()


def test_image_infos_tell_what_the_image_was_in_its_file(tmp_path, how):
    image = Image.new("L", (40, 20), 200)
    exif = image.getexif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "a.png", exif=exif)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "b.png", save_all=True, append_images=frames[1:])
    turned, animated = decode_all(rows_of(tmp_path), **how).image_infos
    assert (turned.width, turned.height, turned.mode, turned.rotated, turned.frames) == (20, 40, "L", True, 1)
    assert (animated.mode, animated.rotated, animated.frames) == ("RGB", False, 2)


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
        decode_all(rows_of(three), **how | {"image_processor": processor})


# ---------------------------------------------------------------- read once


def test_the_second_time_nothing_is_decoded(three, how, decoded):
    first = decode_all(rows_of(three), **how)
    again = decode_all(rows_of(three), **how)
    assert len(decoded) == 3
    assert again.image_infos == first.image_infos
    assert all(map(torch.equal, again.image_cache.read(range(3)), first.image_cache.read(range(3))))


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
    decode_all(rows_of(three), **how)
    decoded.clear()
    change(three / "b.png")
    rows = rows_of(three)
    decode_all(rows, **how)
    assert len(decoded) == len(rows.table)


def test_images_in_a_table_are_told_apart_by_their_bytes(three, how, decoded):
    files = sorted(three.glob("*.png"))
    contents = [file.read_bytes() for file in files]
    for order in ((0, 1, 2), (0, 1, 2), (1, 0, 2)):
        rows = rows_from(files, [ImageSource(bytes=contents[number], path=None) for number in order])
        found = decode_all(rows, **how)
    assert len(decoded) == 6
    assert (found.image_cache.read([0])[0].numpy() == to_pixels(decode(contents[1]), PROCESSOR)).all()


def test_another_processor_has_pixels_of_its_own(three, how):
    squash = make_image_processor(16)
    fit_images(squash, "squash")
    for processor in (PROCESSOR, squash, PROCESSOR):
        pixels = decode_all(rows_of(three), **how | {"image_processor": processor}).image_cache
        expected = to_pixels(decode((three / "a.png").read_bytes()), processor)
        assert (pixels.read([0])[0].numpy() == expected).all()


def test_what_one_processor_cannot_resize_is_not_left_out_for_another(tmp_path, how):
    Image.new("RGB", (1000, 1)).save(tmp_path / "line.png")
    pad = make_image_processor(16)
    fit_images(pad, "pad")
    left_out = [
        len(decode_all(rows_of(tmp_path), **how | {"image_processor": processor}).rows.issues)
        for processor in (pad, PROCESSOR, pad)
    ]
    assert left_out == [1, 0, 1]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_a_damaged_file_of_the_cache_is_made_again(three, how, decoded, suffix):
    decode_all(rows_of(three), **how)
    (file,) = how["cache_dir"].glob(f"*.{suffix}")
    file.write_bytes(file.read_bytes()[:-100])
    decoded.clear()
    assert len(decode_all(rows_of(three), **how).image_infos) == len(decoded) == 3


def test_a_cache_of_an_earlier_version_is_made_again(three, how, monkeypatch):
    monkeypatch.setattr(module, "VERSION", module.VERSION - 1)
    decode_all(rows_of(three), **how)
    monkeypatch.undo()
    (file,) = how["cache_dir"].glob("*.parquet")
    datasets.Dataset.from_dict({"trouble": ["", "", ""]}).to_parquet(file)
    assert len(decode_all(rows_of(three), **how).image_infos) == 3


def test_a_cache_that_is_emptied_while_it_is_used_goes_on_to_be_read(three, how):
    pixels = decode_all(rows_of(three), **how).image_cache
    shutil.rmtree(how["cache_dir"])
    assert (pixels.read([0])[0].numpy() == to_pixels(decode((three / "a.png").read_bytes()), PROCESSOR)).all()


def test_images_within_a_file_are_told_by_the_file_without_reading_them(three, tmp_path, how, decoded):
    table = rows_from(
        [Path("a"), Path("b")], [ImageSource(bytes=(three / f"{name}.png").read_bytes(), path=None) for name in "ab"]
    ).table
    table.save_to_disk(tmp_path / "saved")
    for _ in range(2):
        decode_all(Rows(datasets.load_from_disk(tmp_path / "saved")), **how)
    assert len(decoded) == 2
    decode_all(Rows(datasets.load_from_disk(tmp_path / "saved").select([1])), **how)
    assert len(decoded) == 3


def test_without_pixels_what_was_found_is_kept_all_the_same(three, how, decoded):
    for _ in range(2):
        assert decode_all(rows_of(three), **how, keep_pixels=False).image_cache is None
    assert len(decoded) == 3
    assert not list(how["cache_dir"].glob("*.npy"))


def test_the_size_is_told_before_anything_is_read(three, how, said):
    decode_all(rows_of(three), **how)
    assert f"decoding 3 images once; image cache: 2.3 kB in {how['cache_dir']}" in said.text


# ---------------------------------------------------------------- no room


@pytest.fixture
def full(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=4000)  # bytes; the pixels take 2304, more than half
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_what_would_take_most_of_the_free_disk_is_not_kept(three, how, full, said):
    assert decode_all(rows_of(three), **how).image_cache is None
    assert "the image cache takes 2.3 kB, and 4.0 kB are free" in said.text


def test_unless_it_is_asked_for(three, how, full):
    assert decode_all(rows_of(three), **how, keep_pixels=True).image_cache is not None


def test_what_cannot_fit_is_refused_when_it_is_asked_for(three, how, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        UserError, match=r"^data\.cache=true: .* takes 2\.3 kB, and 2\.0 kB are free.*data\.cache_dir=DIR"
    ):
        decode_all(rows_of(three), **how, keep_pixels=True)


def test_a_cache_that_cannot_be_written_is_done_without(three, how, said):
    how["cache_dir"].write_text("a file where the folder should be")
    kept = decode_all(rows_of(three), **how)
    assert (len(kept.image_infos), kept.image_cache) == (3, None)
    assert "images can't be cached" in said.text


def test_a_cache_that_cannot_be_written_is_refused_when_it_is_asked_for(three, how):
    how["cache_dir"].write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"data\.cache_dir=.* can't be cached .*data\.cache=false"):
        decode_all(rows_of(three), **how, keep_pixels=True)


# ---------------------------------------------------------------- two processes, and killed ones


def _decode_and_report(folder: Path, cache: Path, queue) -> None:
    opened, count = module.open_image, []
    module.open_image = lambda encoded: (count.append(1), time.sleep(0.2), opened(encoded))[2]
    pixels = decode_all(rows_of(folder), image_processor=PROCESSOR, cache_dir=cache).image_cache
    queue.put((len(count), int(torch.stack(pixels.read(range(3))).sum())))


def test_of_two_processes_one_reads_and_the_other_waits(three, how):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_decode_and_report, args=(three, how["cache_dir"], queue)) for _ in range(2)]
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
from test_cache import decode_all, module, rows_of, PROCESSOR
opened = module.open_image
module.open_image = lambda encoded: (print("reading", flush=True), opened(encoded), time.sleep(60))[1]
decode_all(rows_of(Path({str(three)!r})), image_processor=PROCESSOR, cache_dir=Path({str(how["cache_dir"])!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(how["cache_dir"].glob("*.npy"))
    expected = to_pixels(decode((three / "c.png").read_bytes()), PROCESSOR)
    pixels = decode_all(rows_of(three), **how).image_cache
    assert (pixels.read([2])[0].numpy() == expected).all()
    assert not list(how["cache_dir"].glob(".*.part"))


# ---------------------------------------------------------------- the fingerprint of the data


def fingerprint(folder: Path, tmp_path: Path, **changes) -> str:
    rows = rows_of(folder)
    if changes:
        rows = Rows(rows.table.map(lambda row: row | changes))
    decoded_rows = decode_all(rows, image_processor=PROCESSOR, cache_dir=tmp_path / "cache")
    return data_fingerprint(decoded_rows.rows, decoded_rows.image_infos)


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


# ---------------------------------------------------------------- the file of pixels


def image(number: int) -> np.ndarray:
    return np.full(SHAPE, number, np.uint8)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pixels.npy"
    with create_image_cache(path, 5, SHAPE) as write:
        for number in (4, 0, 2, 1, 3):
            write(number, image(number))
    return ImageCache(path)


def test_images_are_read_in_the_order_asked_for(file):
    assert [int(pixels[0, 0, 0]) for pixels in file.read([3, 0, 3])] == [3, 0, 3]


def test_what_is_read_are_the_images_that_were_written(file):
    assert file.read([2])[0].tolist() == image(2).tolist()


def test_numpy_reads_the_file(file):
    assert np.load(file.path).shape == (5, *SHAPE)


def test_whoever_changes_what_was_read_does_not_change_the_file(file):
    file.read([1])[0].zero_()
    assert ImageCache(file.path).read([1])[0].unique().tolist() == [1]


def test_a_worker_process_gets_the_path_and_not_the_images(file):
    file.read([0])
    assert len(pickle.dumps(file)) < 500
    assert pickle.loads(pickle.dumps(file)).read([4])[0].unique().tolist() == [4]


def test_before_the_end_there_is_no_file(tmp_path):
    with create_image_cache(tmp_path / "a.npy", 1, SHAPE):
        assert not (tmp_path / "a.npy").exists()


def test_what_is_interrupted_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), create_image_cache(tmp_path / "a.npy", 1, SHAPE):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a limit on file sizes needs POSIX")
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path):
    program = f"""
import resource, signal, numpy as np
from pathlib import Path
from captioning.data.cache import create_image_cache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with create_image_cache(Path({str(tmp_path)!r}, "a.npy"), 3, {SHAPE}) as write:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        for row in range(3):
            write(row, np.ones({SHAPE}, np.uint8))
except OSError as error:
    print("refused", error.strerror)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("refused")
    assert list(tmp_path.iterdir()) == []
