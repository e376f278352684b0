import threading
import time
from pathlib import Path

import pytest
import torch

import captioning.training.checkpoints
from captioning.training.checkpoints import KEYS, CheckpointWriter, newest_checkpoint


def checkpoint(step: int) -> dict:
    """What a training's checkpoint has, made small."""
    content = dict.fromkeys(KEYS, 0)
    return content | {
        "global_step": step,
        "is_between_steps": True,
        "state_dict": {"weight": torch.full((500,), step)},
        "callbacks": {"Timer": {"time_elapsed": time.monotonic()}},
    }


@pytest.fixture
def writer() -> CheckpointWriter:
    writer = CheckpointWriter()
    yield writer
    writer.teardown()


def saved(writer: CheckpointWriter, path: Path, step: int) -> Path:
    writer.save_checkpoint(checkpoint(step), path)
    writer.wait()
    return path


# ------------------------------------------------------------ writing


def test_what_is_written_is_what_was_there_when_it_was_asked_for(writer, tmp_path, monkeypatch):
    goes_on = threading.Event()
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (goes_on.wait(10), save(*arguments)))
    content = checkpoint(1)
    writer.save_checkpoint(content, tmp_path / "one.ckpt")
    content["state_dict"]["weight"].zero_()  # as training does
    goes_on.set()
    assert writer.load_checkpoint(tmp_path / "one.ckpt")["state_dict"]["weight"].eq(1).all()


def test_training_does_not_wait_for_the_disk(writer, tmp_path, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(torch, "save", lambda *arguments: goes_on.wait(10))
    began = time.monotonic()
    writer.save_checkpoint(checkpoint(1), tmp_path / "one.ckpt")
    assert time.monotonic() - began < 5
    goes_on.set()


def test_a_file_has_its_name_only_when_it_is_whole(writer, tmp_path, monkeypatch):
    def half(content: object, file: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = saved(writer, tmp_path / "last.ckpt", 1)
    monkeypatch.setattr(torch, "save", half)
    writer.save_checkpoint(checkpoint(2), path)
    writer.wait()
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert newest_checkpoint(tmp_path)[0].step == 1


def test_a_write_that_fails_is_told_with_the_file_and_the_reason(writer, tmp_path):
    (tmp_path / "a file").write_text("")
    writer.save_checkpoint(checkpoint(1), tmp_path / "a file" / "one.ckpt")
    writer.wait()
    assert "a file/one.ckpt: the checkpoint can't be written (" in str(writer.error)


def test_no_checkpoint_is_removed_once_a_write_has_failed(writer, tmp_path):
    kept = saved(writer, tmp_path / "best.ckpt", 1)
    (tmp_path / "a file").write_text("")
    writer.save_checkpoint(checkpoint(2), tmp_path / "a file" / "better.ckpt")
    writer.remove_checkpoint(kept)
    writer.wait()
    assert kept.exists()


def test_a_state_that_is_saved_twice_is_written_once(writer, tmp_path):
    best, last = (saved(writer, tmp_path / name, 1) for name in ("best.ckpt", "last.ckpt"))
    assert best.samefile(last)


def test_what_is_the_best_stays_when_the_last_is_another(writer, tmp_path):
    best, last = (saved(writer, tmp_path / name, 1) for name in ("best.ckpt", "last.ckpt"))
    saved(writer, last, 2)
    assert [writer.load_checkpoint(path)["global_step"] for path in (best, last)] == [1, 2]


@pytest.mark.parametrize("change", [{"global_step": 2}, {"state_dict": {"weight": torch.full((500,), 1.0)}}])
def test_a_state_that_differs_in_anything_has_a_file_of_its_own(writer, tmp_path, change):
    best, other = saved(writer, tmp_path / "best.ckpt", 1), tmp_path / "last.ckpt"
    writer.save_checkpoint(checkpoint(1) | change, other)
    writer.wait()
    assert not best.samefile(other)


def test_a_disk_without_links_has_what_is_saved_twice_as_two_files(writer, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    best, last = (saved(writer, tmp_path / name, 1) for name in ("best.ckpt", "last.ckpt"))
    assert writer.error is None
    assert not best.samefile(last)
    assert newest_checkpoint(tmp_path)[0].step == 1


def test_the_last_checkpoint_leaves_the_one_before_it(writer, tmp_path):
    for step in (1, 2, 3):
        saved(writer, tmp_path / "last.ckpt", step)
    steps = {
        name: torch.load(tmp_path / name, weights_only=True)["global_step"] for name in ("last.ckpt", "previous.ckpt")
    }
    assert steps == {"last.ckpt": 3, "previous.ckpt": 2}


# ------------------------------------------------------------ finding


def test_the_newest_is_that_of_the_latest_step_whatever_its_name_or_age(writer, tmp_path):
    best = saved(writer, tmp_path / "step000007-0.1.ckpt", 7)
    saved(writer, tmp_path / "last.ckpt", 5)
    assert newest_checkpoint(tmp_path)[0].path == best


def test_of_two_of_the_same_step_the_last_is_taken(writer, tmp_path):
    saved(writer, tmp_path / "a.ckpt", 5)
    saved(writer, tmp_path / "last.ckpt", 5)
    assert newest_checkpoint(tmp_path)[0].path.name == "last.ckpt"


def test_an_empty_folder_has_none(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def with_a_wrong_byte(path: Path) -> None:
    """In the weights, where torch itself doesn't look."""
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((8,), 9).numpy().tobytes())
    content[place + 20] ^= 1
    path.write_bytes(content)


def of_another_program(path: Path) -> None:
    torch.save({"epoch": 3, "weights": torch.zeros(3)}, path)


def with_code_in_it(path: Path) -> None:
    torch.save(checkpoint(9) | {"callbacks": Path("code")}, path)


def saved_within_a_step(path: Path) -> None:
    torch.save(checkpoint(9) | {"is_between_steps": False}, path)


WHOLE_BUT_OF_NO_USE = [of_another_program, saved_within_a_step]


@pytest.mark.parametrize("spoil", [truncated, emptied, with_a_wrong_byte, with_code_in_it, *WHOLE_BUT_OF_NO_USE])
def test_one_that_is_of_no_use_is_passed_over_for_the_one_before_with_a_line(writer, tmp_path, said, spoil):
    saved(writer, tmp_path / "previous.ckpt", 8)
    spoilt = saved(writer, tmp_path / "step000009.ckpt", 9)
    spoil(spoilt)
    found, damaged = newest_checkpoint(tmp_path)
    assert (found.step, damaged) == (8, [] if spoil in WHOLE_BUT_OF_NO_USE else [spoilt])
    assert f"passed over: {spoilt}: " in said.text


def test_the_errors_of_the_thread_are_not_lost(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(captioning.training.checkpoints, "_write", lambda *arguments: 1 / 0)
    writer.save_checkpoint(checkpoint(1), tmp_path / "one.ckpt")
    writer.wait()
    with pytest.raises(ZeroDivisionError):
        _ = writer.error
