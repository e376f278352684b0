import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from captioning.data.pixel_file import PixelFile, writing_pixels

SHAPE = (3, 4, 5)


def image(number: int) -> np.ndarray:
    return np.full(SHAPE, number, np.uint8)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pixels.npy"
    with writing_pixels(path, 5, SHAPE) as writer:
        for number in (4, 0, 2, 1, 3):
            writer.write(number, image(number))
    return PixelFile(path)


def test_images_are_read_in_the_order_asked_for(file):
    assert [int(pixels[0, 0, 0]) for pixels in file.read([3, 0, 3])] == [3, 0, 3]


def test_what_is_read_are_the_images_that_were_written(file):
    assert file.read([2])[0].tolist() == image(2).tolist()


def test_numpy_reads_the_file(file):
    assert np.load(file.path).shape == (5, *SHAPE)


def test_whoever_changes_what_was_read_does_not_change_the_file(file):
    file.read([1])[0].zero_()
    assert PixelFile(file.path).read([1])[0].unique().tolist() == [1]


def test_a_worker_process_gets_the_path_and_not_the_images(file):
    file.read([0])
    assert len(pickle.dumps(file)) < 500
    assert pickle.loads(pickle.dumps(file)).read([4])[0].unique().tolist() == [4]


def test_before_the_end_there_is_no_file(tmp_path):
    with writing_pixels(tmp_path / "a.npy", 1, SHAPE):
        assert not (tmp_path / "a.npy").exists()


def test_what_is_interrupted_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing_pixels(tmp_path / "a.npy", 1, SHAPE):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_image_of_another_shape_is_refused(tmp_path):
    with writing_pixels(tmp_path / "a.npy", 1, SHAPE) as writer, pytest.raises(ValueError, match=r"\(3, 4, 6\)"):
        writer.write(0, np.zeros((3, 4, 6), np.uint8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a limit on file sizes needs POSIX")
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path):
    program = f"""
import resource, signal, numpy as np
from pathlib import Path
from captioning.data.pixel_file import writing_pixels
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with writing_pixels(Path({str(tmp_path)!r}, "a.npy"), 3, {SHAPE}) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        for row in range(3):
            writer.write(row, np.ones({SHAPE}, np.uint8))
except OSError as error:
    print("refused", error.strerror)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("refused")
    assert list(tmp_path.iterdir()) == []
