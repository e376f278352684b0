"""Jobs that share a machine: its cores and its GPUs."""

import multiprocessing
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import pytest

from captioning.errors import UserError
from captioning.sweeps import share
from captioning.sweeps.share import gpus_wanted, own_gpus, threads_of_a_process, visible_gpus


@pytest.mark.parametrize(
    ("cores", "jobs", "processes", "threads"), [(16, 2, 2, 4), (16, 3, 2, 2), (2, 4, 2, 1), (8, 1, 1, 8)]
)
def test_all_processes_of_all_jobs_together_have_a_core_for_each_thread(cores, jobs, processes, threads):
    assert threads_of_a_process(cores=cores, jobs_at_once=jobs, processes=processes) == threads


def test_the_gpus_to_share_are_those_that_the_sweep_was_given():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 5"}) == ["2", "5"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.mark.parametrize(
    ("devices", "accelerator", "jobs", "wanted"),
    [
        (2, "auto", 2, 2),
        ("2", "gpu", 2, 2),
        ("auto", "cuda", 2, 2),
        (-1, "auto", 3, 1),
        ("auto", "auto", 8, 1),
        (2, "cpu", 2, 0),
        ([0, 1], "gpu", 2, 0),
    ],
)
def test_a_job_gets_as_many_of_four_gpus_as_it_asks_for_or_its_part_of_all(devices, accelerator, jobs, wanted):
    assert gpus_wanted({"devices": devices, "accelerator": accelerator}, gpus=4, jobs_at_once=jobs) == wanted


def test_a_job_that_asks_for_more_gpus_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"^trainer\.devices=3: there are 2 GPUs$"):
        gpus_wanted({"devices": 3, "accelerator": "gpu"}, gpus=2, jobs_at_once=1)


def test_no_two_jobs_have_a_gpu_at_the_same_time_and_none_waits_for_half(tmp_path, monkeypatch):
    monkeypatch.setattr(share, "POLL", 0.01)
    held: list[str] = []
    lock = Lock()

    def work(wanted: int) -> None:
        for _ in range(5):
            with own_gpus(["0", "1", "2"], wanted, folder=tmp_path) as own:
                assert len(own) == wanted
                with lock:
                    held.extend(own)
                    assert len(held) == len(set(held))
                time.sleep(0.01)
                with lock:
                    for gpu in own:
                        held.remove(gpu)

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(work, wanted) for wanted in (2, 2, 1, 3)]:
            done.result(timeout=60)


def test_two_jobs_hold_their_gpus_at_once_where_there_are_enough(tmp_path):
    both = Barrier(2, timeout=30)

    def work() -> list[str]:
        with own_gpus(["0", "1", "2", "3"], 2, folder=tmp_path) as own:
            both.wait()
            return own

    with ThreadPoolExecutor() as pool:
        taken = [done.result() for done in [pool.submit(work), pool.submit(work)]]
    assert sorted(taken[0] + taken[1]) == ["0", "1", "2", "3"]


def _hold(folder: Path, has_it: object) -> None:
    with own_gpus(["0"], 1, folder=folder):
        has_it.set()
        signal.pause()


def test_the_gpu_of_a_killed_job_is_free_again(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    has_it = spawn.Event()
    other = spawn.Process(target=_hold, args=(tmp_path, has_it))
    other.start()
    assert has_it.wait(60)
    assert share._take(["0"], 1, tmp_path, share.ExitStack()) == []
    other.kill()
    other.join()
    with own_gpus(["0"], 1, folder=tmp_path) as own:
        assert own == ["0"]


def test_a_job_that_is_told_to_stop_waits_for_no_gpu(tmp_path):
    with own_gpus(["0"], 1, folder=tmp_path), own_gpus(["0"], 1, folder=tmp_path, stop_asked=lambda: True) as own:
        assert own == []
