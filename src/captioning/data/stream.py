"""Training on shards without end: in which order rows are read, by whom, and how to resume at any position."""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import KW_ONLY, dataclass, field
from hashlib import blake2b
from itertools import count, islice
from typing import Any, NamedTuple

from PIL import UnidentifiedImageError
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from captioning.data.dataset import Batch, Sample
from captioning.data.rows import Row, RowIssue, describe
from captioning.data.shards import UNREADABLE_IMAGE, Report, Shards
from captioning.errors import UserError

MAX_UNUSABLE = 100  # images in sequence, before the stream is an error

_log = logging.getLogger(__name__)


class StreamedRow(NamedTuple):
    """A row as it is trained on once."""

    row: Row
    seed: int  # of every random choice about it
    pass_number: int


@dataclass(frozen=True)
class Reader:
    """One of several readers of the same shards: which rows it gives, and in which order.

    Rows are read in passes. In each pass the shards are put in a new order and dealt to the readers, so that each gets
    the same share of them and every row is read by one of them. Where shards don't come out even, readers share one:
    of ``n`` rows in sequence, ``n`` being the number of readers, each takes its share. A reader goes from pass to pass
    without waiting for the others, whose shards may be larger. Within a pass rows are shuffled in blocks of ``buffer``.

    All of it is a function of the seed, the shards and the number of readers, and the number of rows given so far is
    the position to resume at.
    """

    shards: Shards
    number: int = 0  # among the readers
    readers: int = 1
    seed: int = 0
    buffer: int = 1000  # rows in a block, whose encoded images are in memory together
    is_held_out: Callable[[Row], bool] = lambda row: False
    report: Report = lambda issue: None
    # Of the shards that were read while skipping, how many rows have each remainder modulo `readers`.
    _sizes: dict[int, Counter[int]] = field(default_factory=dict)

    def rows(self, start: int = 0) -> Iterator[StreamedRow]:
        """All rows but the first ``start``, without end.

        What is skipped is read, but once only: of a later pass it is known then how many rows its shards have.

        Raises:
            UserError: there is nothing to train on.
        """
        idle = 0
        for number in count():
            length = yield from self._pass(number, start)
            start = max(start - length, 0)
            idle = 0 if length else idle + 1
            if idle == self.readers:  # with fewer rows than readers, these take turns in having none
                none = f"no row to train on in its {len(self.shards)} shards"
                raise UserError(
                    f"data.path={self.shards.path}: {none}: all are held out, of another split, or left out"
                )

    def _pass(self, number: int, start: int) -> Generator[StreamedRow, None, int]:
        """The rows of a pass but the first ``start``; returns how many it has with these."""
        position = 0
        block_start = start - start % self.buffer
        block: list[Row] = []
        for shard, remainders in self._deal(number):
            if position < block_start:
                if shard not in self._sizes:
                    self._sizes[shard] = Counter(remainder for remainder, _ in self._rows(shard))
                size = sum(self._sizes[shard][remainder] for remainder in remainders)
                if position + size <= block_start:
                    position += size
                    continue
            for remainder, row in self._rows(shard):
                if remainder not in remainders:
                    continue
                position += 1
                if position > block_start:
                    block.append(row)
                if len(block) == self.buffer:
                    yield from self._shuffled(block, number, start - (position - len(block)))
                    block = []
        yield from self._shuffled(block, number, start - (position - len(block)))
        return position

    def _deal(self, number: int) -> Iterator[tuple[int, set[int]]]:
        """This reader's shards in a pass, and the row numbers modulo ``readers`` that it is to read of each."""
        # Each shard is as many slots as there are readers, and each reader has as many slots as there are shards.
        order = sorted(self.shards.for_training, key=lambda shard: _hash(self.seed, number, "shard", shard))
        first, end = self.number * len(order), (self.number + 1) * len(order)
        for place in range(first // self.readers, -(-end // self.readers)):
            start = place * self.readers
            slots = range(max(first, start) - start, min(end - start, self.readers))
            # A slot stands for other rows in each pass: of a shard with few rows, some readers would never have one.
            yield order[place], {(slot - number) % self.readers for slot in slots}

    def _rows(self, shard: int) -> Iterator[tuple[int, Row]]:
        """The rows of a shard that are trained on, each with its number modulo ``readers``."""
        for index, row in enumerate(self.shards.read(shard, self.report)):
            if row["split"] in (None, "train") and not self.is_held_out(row):
                yield index % self.readers, row

    def _shuffled(self, block: list[Row], number: int, start: int) -> Iterator[StreamedRow]:
        block.sort(key=lambda row: _hash(self.seed, number, "place", row["id"]))
        for row in islice(block, max(start, 0), None):
            yield StreamedRow(row, _hash(self.seed, number, "visit", row["id"]), number)


def _hash(*parts: object) -> int:
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # within the int64 that torch takes


@dataclass(eq=False)
class StreamDataset(IterableDataset[Sample]):
    """The samples of one process of a training, without end, for a :class:`StreamLoader`.

    The samples are a function of the arguments and of the number of loading workers: a stream that starts at batch
    ``k`` gives exactly what follows after ``k`` batches, as long as ``batch_size``, ``world_size``, the number of
    workers, ``is_held_out`` and the shards are the same. With another number of processes or workers it starts at about
    the same position of another order: of the pass under way, some rows are trained on twice and others not.

    An image that turns out to be unusable only when it is decoded keeps its place: the next one is given twice, once
    as a padding sample that doesn't count. Otherwise a position couldn't be found again without decoding.

    Raises:
        UserError: while it is read, ``MAX_UNUSABLE`` images in sequence can't be used, or there is nothing to train on.
    """

    shards: Shards
    make_sample: Callable[[Row, int], Sample | None]  # by the seed; None: not to train on; OSError: an unreadable image
    _: KW_ONLY
    batch_size: int  # of each process
    is_held_out: Callable[[Row], bool] = lambda row: False  # by what is known before decoding
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    buffer: int = 1000  # rows that are shuffled with each other, in the memory of each worker
    start_batch: int = 0  # of each process

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        # Batch k is that of worker k % workers. A DataLoader asks worker 0 first, wherever the stream starts.
        turn = (self.start_batch + (worker.id if worker else 0)) % workers
        earlier_batches = len(range(turn, self.start_batch, workers))
        left_out = count(1)

        def report(issue: RowIssue) -> None:
            number = next(left_out)
            if str(number).strip("0") == "1":  # the 1st, 10th, 100th, …
                times = f"left out so far: {number}, the last one" if number > 1 else "left out"
                _log.warning(f"data.path={self.shards.path}: {times} {issue.name} ({issue.kind})")

        number, readers = self.rank * workers + turn, self.world_size * workers
        reader = Reader(self.shards, number, readers, self.seed, self.buffer, self.is_held_out, report)
        unusable: list[RowIssue] = []
        for row, seed, _ in reader.rows(earlier_batches * self.batch_size):
            sample, kind = None, "near-duplicate of a held-out image"
            try:
                sample = self.make_sample(row, seed)
            except OSError as error:
                what = "not an image" if isinstance(error, UnidentifiedImageError) else error
                kind = f"{UNREADABLE_IMAGE}: {what}"
            if sample is not None:
                padding = sample.copy()
                padding["is_padding"] = True
                yield from [padding] * len(unusable)
                unusable.clear()
                yield sample
                continue
            unusable.append(RowIssue(kind, row["id"]))
            report(unusable[-1])
            if len(unusable) == MAX_UNUSABLE:
                what = f"{MAX_UNUSABLE} images in sequence can't be used: {describe(unusable)}"
                raise UserError(f"data.path={self.shards.path}: {what}")


class StreamLoader(DataLoader[Sample]):
    """Batches of a :class:`StreamDataset`: each iteration resumes where the last one stopped, as do the workers.

    An iteration has ``epoch_batches``; ``options`` are those of ``DataLoader``.
    """

    def __init__(self, dataset: StreamDataset, *, epoch_batches: int, **options: Any) -> None:
        super().__init__(dataset, batch_size=dataset.batch_size, **options)
        self.epoch_batches = epoch_batches
        self._batches: Iterator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self._batches is None:
            self._batches = super().__iter__()
        for _ in range(self.epoch_batches):
            try:
                yield next(self._batches)
            except UserError as error:  # from a worker it comes with the traceback in its text
                raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2] or str(error)) from None

    def __len__(self) -> int:
        return self.epoch_batches
