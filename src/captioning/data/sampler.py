"""In which order a training samples its images: a function of (seed, epoch, position) alone."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch.utils.data import SequentialSampler
from torch.utils.data.distributed import DistributedSampler


class SampleIndex(NamedTuple):
    """What a sampler yields: which image, and the seed of its random choices."""

    row: int  # number in the split
    seed: int = 0  # of the caption that is sampled and of the augmentation
    is_padding: bool = False  # keeps processes in step, and counts neither in the loss nor in metrics


# Lightning replaces any sampler but a DistributedSampler, and sets the epoch of that one.
class ResumableDistributedSampler(DistributedSampler[SampleIndex]):
    """The samples of one process in an epoch.

    All processes share one order, cut into global batches of ``batch_size * num_replicas`` samples, of which process
    ``rank`` takes every ``num_replicas``-th: a global batch holds the same images on any number of processes. Padding
    samples complete the last one: every process takes part in every step, and every image counts once.
    """

    def __init__(
        self, length: int, *, batch_size: int, num_replicas: int = 1, rank: int = 0, shuffle: bool, seed: int = 0
    ) -> None:
        # Of the data set only the length is used.
        super().__init__(range(length), num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.length = length
        self.batch_size = batch_size
        self.start = 0

    def set_position(self, *, epoch: int, position: int) -> None:
        """Start ``epoch`` after its first ``position`` samples of all processes; ``len()`` stays as it is."""
        self.epoch, self.start = epoch, position

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.start = 0
        super().set_epoch(epoch)

    def __len__(self) -> int:
        return -(-self.length // self.num_replicas)

    def __iter__(self) -> Iterator[SampleIndex]:
        order = list(range(self.length))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self._seed_of(-1))
            order = torch.randperm(self.length, generator=generator).tolist()
        global_batch = self.batch_size * self.num_replicas
        for start in range(self.start, self.length, global_batch):
            rounds = -(-min(global_batch, self.length - start) // self.num_replicas)
            for position in range(start + self.rank, start + rounds * self.num_replicas, self.num_replicas):
                is_padding = position >= self.length
                yield SampleIndex(order[start if is_padding else position], self._seed_of(position), is_padding)

    def _seed_of(self, position: int) -> int:
        # Hashed, because generators of neighboring seeds are correlated.
        digest = blake2b(f"{self.seed}/{self.epoch}/{position}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1  # within the int64 that torch takes


class OverfitSampler(ResumableDistributedSampler, SequentialSampler):  # type: ignore[misc]  # which yields row numbers
    """The samples of the first epoch in every epoch, each with the same caption, for ``trainer.overfit_batches``.

    A ``SequentialSampler``, because Lightning would replace any other by one.
    """

    def _seed_of(self, position: int) -> int:
        epoch, self.epoch = self.epoch, 0
        seed = super()._seed_of(position)
        self.epoch = epoch
        return seed
