"""GPUs that jobs running side by side share."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock

import pytest

from captioning.errors import UserError
from captioning.sweeps.gpus import GpuPool, gpus_per_job, visible_gpus


@pytest.mark.parametrize(("value", "names"), [("2, 5", ["2", "5"]), ("", [])])
def test_the_gpus_to_share_are_those_that_the_sweep_was_given(monkeypatch, value, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == names


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
    assert gpus_per_job(accelerator, devices, gpus=4, n_jobs=jobs) == wanted


def test_a_job_that_asks_for_more_gpus_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"^trainer\.devices=3: there are 2 GPUs"):
        gpus_per_job("gpu", 3, gpus=2, n_jobs=1)


def test_no_two_jobs_have_a_gpu_at_the_same_time_and_none_waits_for_half():
    pool, held, lock = GpuPool(["0", "1", "2"]), [], Lock()

    def work(wanted: int) -> None:
        for _ in range(5):
            with pool.take(wanted) as own:
                assert len(own) == wanted
                with lock:
                    held.extend(own)
                    assert len(held) == len(set(held))
                time.sleep(0.01)
                with lock:
                    for gpu in own:
                        held.remove(gpu)

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(work, wanted) for wanted in (2, 2, 1, 3)]:
            done.result(timeout=60)


def test_two_jobs_hold_their_gpus_at_once_where_there_are_enough():
    pool, both = GpuPool(["0", "1", "2", "3"]), Barrier(2, timeout=30)

    def work() -> list[str]:
        with pool.take(2) as own:
            both.wait()
            return own

    with ThreadPoolExecutor() as threads:
        taken = [done.result() for done in [threads.submit(work), threads.submit(work)]]
    assert sorted(taken[0] + taken[1]) == ["0", "1", "2", "3"]
