"""In which order images are visited: a function of (seed, epoch, position), of nothing else."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch.utils.data import SequentialSampler
from torch.utils.data.distributed import DistributedSampler


class SampleIndex(NamedTuple):
    """One visit of an image."""

    row: int  # number in the split
    seed: int = 0  # of every random choice about this visit: which caption, how the image is augmented
    counts: bool = True  # False for a filler, which keeps processes in step and adds nothing to loss or metrics


class ResumableDistributedSampler(
    DistributedSampler[SampleIndex]
):  # Lightning leaves a DistributedSampler as it is, and sets its epoch
    """The visits of one process in an epoch.

    All processes share one order. It is cut into global batches of ``batch_size * num_replicas`` visits, and process
    ``rank`` takes every ``num_replicas``-th visit of each. So a global batch holds the same images however many
    processes share it. Where the last one doesn't divide evenly, fillers make up for it: every process takes part in
    every step, and every image counts once.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool,
        seed: int = 0,
    ) -> None:
        dataset: Any = range(length)  # only its length is read
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        self.length = length
        self.batch_size = batch_size
        self.start = 0

    def set_position(self, *, epoch: int, position: int) -> None:
        """Begin ``epoch`` after its first ``position`` visits, of all processes together; later epochs are whole.

        ``len()`` stays that of a whole epoch.
        """
        self.epoch, self.start = epoch, position

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.start = 0
        super().set_epoch(epoch)

    def __len__(self) -> int:
        return -(-self.length // self.num_replicas)

    def __iter__(self) -> Iterator[SampleIndex]:
        order = self._order()
        global_batch = self.batch_size * self.num_replicas
        for start in range(self.start, self.length, global_batch):
            size = min(global_batch, self.length - start)
            for position in range(
                start + self.rank,
                start + -(-size // self.num_replicas) * self.num_replicas,
                self.num_replicas,
            ):
                counts = position < self.length
                row = order[position] if counts else order[start]
                yield SampleIndex(row, self._seed_of(position), counts)

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.length))
        generator = torch.Generator().manual_seed(self._seed_of(-1))
        return torch.randperm(self.length, generator=generator).tolist()

    def _seed_of(self, position: int) -> int:
        # Hashed, because generators of neighbouring seeds are correlated.
        digest = blake2b(f"{self.seed}/{self.epoch}/{position}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1  # within the int64 that torch takes


class OverfitSampler(ResumableDistributedSampler, SequentialSampler):  # type: ignore[misc]  # which yields row numbers
    """The visits of the first epoch in every epoch, each with its own caption, for ``trainer.overfit_batches``.

    A ``SequentialSampler`` by name, because there Lightning puts one in the place of any other.
    """

    def _seed_of(self, position: int) -> int:
        epoch, self.epoch = self.epoch, 0
        seed = super()._seed_of(position)
        self.epoch = epoch
        return seed
