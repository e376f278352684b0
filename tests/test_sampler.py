from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.data.sampler import ResumableDistributedSampler, SampleIndex

lengths = st.integers(1, 60)
batch_sizes = st.integers(1, 7)
numbers_of_processes = st.integers(1, 5)
either = st.booleans()


def visits_of(length, batch_size, processes=1, *, shuffle=True, seed=0, epoch=0) -> list[list[SampleIndex]]:
    """The visits of each process in an epoch."""
    samplers = [
        ResumableDistributedSampler(
            length, batch_size=batch_size, num_replicas=processes, rank=rank, shuffle=shuffle, seed=seed
        )
        for rank in range(processes)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


def global_batches(length, batch_size, processes, **settings) -> list[list[SampleIndex]]:
    """What all processes visit in each step, without fillers, in the order of images."""
    visits = visits_of(length, batch_size // processes, processes, **settings)
    steps = range(0, len(visits[0]), batch_size // processes)
    return [
        sorted(visit for own in visits for visit in own[step : step + batch_size // processes] if visit.counts)
        for step in steps
    ]


@given(lengths, batch_sizes, numbers_of_processes, either)
def test_every_image_counts_exactly_once_in_an_epoch(length, batch_size, processes, shuffle):
    visits = visits_of(length, batch_size, processes, shuffle=shuffle)
    assert Counter(visit.row for own in visits for visit in own if visit.counts) == Counter(range(length))


@given(lengths, batch_sizes, numbers_of_processes, either)
def test_every_process_makes_as_many_visits(length, batch_size, processes, shuffle):
    assert len({len(own) for own in visits_of(length, batch_size, processes, shuffle=shuffle)}) == 1


@given(lengths, batch_sizes, numbers_of_processes)
def test_there_are_fewer_fillers_than_processes(length, batch_size, processes):
    visits = visits_of(length, batch_size, processes)
    assert sum(not visit.counts for own in visits for visit in own) < processes


@given(lengths, batch_sizes, numbers_of_processes)
def test_a_filler_shows_a_image_of_the_same_step(length, batch_size, processes):
    visits = visits_of(length, batch_size, processes)
    last_step = (len(visits[0]) - 1) // batch_size * batch_size
    shown = {visit.row for own in visits for visit in own[last_step:] if visit.counts}
    assert all(visit.row in shown for own in visits for visit in own if not visit.counts)


@given(lengths, batch_sizes, numbers_of_processes)
def test_the_length_is_the_number_of_visits(length, batch_size, processes):
    sampler = ResumableDistributedSampler(
        length, batch_size=batch_size, num_replicas=processes, rank=processes - 1, shuffle=True
    )
    assert len(sampler) == len(list(sampler))


@pytest.mark.parametrize("length", [1, 5, 12, 13, 23, 24, 25, 61])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_global_batch_holds_the_same_visits_however_many_processes_share_it(length, processes):
    assert global_batches(length, 12, processes) == global_batches(length, 12, 1)  # their seeds are compared too


def test_without_shuffling_images_come_in_their_order():
    assert [visit.row for visit in visits_of(7, 3, shuffle=False)[0]] == list(range(7))


def rows(**settings) -> list[int]:
    return [visit.row for visit in visits_of(30, 4, **settings)[0]]


def seeds(**settings) -> list[int]:
    return [visit.seed for visit in visits_of(30, 4, **settings)[0]]


@pytest.mark.parametrize("drawn", [rows, seeds])
@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_draws_anew(drawn, other):
    assert drawn(**other) != drawn()


@pytest.mark.parametrize("drawn", [rows, seeds])
def test_the_same_seed_and_epoch_draw_the_same(drawn):
    assert drawn(seed=3, epoch=2) == drawn(seed=3, epoch=2)


def test_a_shuffled_order_does_not_depend_on_the_batch_size():
    assert [visit.row for visit in visits_of(30, 4)[0]] == [visit.row for visit in visits_of(30, 7)[0]]


def test_no_two_visits_share_a_seed():
    drawn = [seed for epoch in range(3) for seed in seeds(epoch=epoch)]
    assert len(set(drawn)) == len(drawn)


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_seeds_are_what_generators_take(seed, epoch):
    assert all(0 <= visit.seed < 2**63 for visit in visits_of(3, 2, seed=seed, epoch=epoch)[0])
