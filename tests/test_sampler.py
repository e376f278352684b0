from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.data.sampler import ResumableDistributedSampler, SampleIndex

lengths = st.integers(1, 60)
batch_sizes = st.integers(1, 7)
numbers_of_processes = st.integers(1, 5)
either = st.booleans()


def samples_of(length, batch_size, processes=1, *, shuffle=True, seed=0, epoch=0) -> list[list[SampleIndex]]:
    """The samples of each process in an epoch."""
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
    """The samples of all processes in each step, without padding, in the order of images."""
    samples = samples_of(length, batch_size // processes, processes, **settings)
    steps = range(0, len(samples[0]), batch_size // processes)
    return [
        sorted(index for own in samples for index in own[step : step + batch_size // processes] if not index.is_padding)
        for step in steps
    ]


@given(lengths, batch_sizes, numbers_of_processes, either)
def test_every_image_counts_exactly_once_in_an_epoch(length, batch_size, processes, shuffle):
    samples = samples_of(length, batch_size, processes, shuffle=shuffle)
    assert Counter(index.row for own in samples for index in own if not index.is_padding) == Counter(range(length))


@given(lengths, batch_sizes, numbers_of_processes, either)
def test_every_process_gets_as_many_samples(length, batch_size, processes, shuffle):
    assert len({len(own) for own in samples_of(length, batch_size, processes, shuffle=shuffle)}) == 1


@given(lengths, batch_sizes, numbers_of_processes)
def test_there_are_fewer_padding_samples_than_processes(length, batch_size, processes):
    samples = samples_of(length, batch_size, processes)
    assert sum(index.is_padding for own in samples for index in own) < processes


@given(lengths, batch_sizes, numbers_of_processes)
def test_a_padding_sample_is_an_image_of_the_same_step(length, batch_size, processes):
    samples = samples_of(length, batch_size, processes)
    last_step = (len(samples[0]) - 1) // batch_size * batch_size
    shown = {index.row for own in samples for index in own[last_step:] if not index.is_padding}
    assert all(index.row in shown for own in samples for index in own if index.is_padding)


@given(lengths, batch_sizes, numbers_of_processes)
def test_the_length_is_the_number_of_samples(length, batch_size, processes):
    sampler = ResumableDistributedSampler(
        length, batch_size=batch_size, num_replicas=processes, rank=processes - 1, shuffle=True
    )
    assert len(sampler) == len(list(sampler))


@pytest.mark.parametrize("length", [1, 5, 12, 13, 23, 24, 25, 61])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_global_batch_holds_the_same_samples_however_many_processes_share_it(length, processes):
    assert global_batches(length, 12, processes) == global_batches(length, 12, 1)  # their seeds are compared too


def test_without_shuffling_images_come_in_their_order():
    assert [index.row for index in samples_of(7, 3, shuffle=False)[0]] == list(range(7))


def rows(**settings) -> list[int]:
    return [index.row for index in samples_of(30, 4, **settings)[0]]


def seeds(**settings) -> list[int]:
    return [index.seed for index in samples_of(30, 4, **settings)[0]]


@pytest.mark.parametrize("drawn", [rows, seeds])
@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_draws_anew(drawn, other):
    assert drawn(**other) != drawn()


@pytest.mark.parametrize("drawn", [rows, seeds])
def test_the_same_seed_and_epoch_draw_the_same(drawn):
    assert drawn(seed=3, epoch=2) == drawn(seed=3, epoch=2)


def test_a_shuffled_order_does_not_depend_on_the_batch_size():
    assert [index.row for index in samples_of(30, 4)[0]] == [index.row for index in samples_of(30, 7)[0]]


def test_no_two_samples_share_a_seed():
    drawn = [seed for epoch in range(3) for seed in seeds(epoch=epoch)]
    assert len(set(drawn)) == len(drawn)


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_seeds_are_what_generators_take(seed, epoch):
    assert all(0 <= index.seed < 2**63 for index in samples_of(3, 2, seed=seed, epoch=epoch)[0])
