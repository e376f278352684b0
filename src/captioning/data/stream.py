"""Training on shards without end: in which order rows are read, by whom, and how to go on from any place in it."""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count, islice
from typing import Any, NamedTuple

from PIL import UnidentifiedImageError
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from captioning.data.dataset import Batch, Sample
from captioning.data.rows import Problem, Row, describe
from captioning.data.shards import Report, Shards
from captioning.errors import UserError

UNUSABLE_ON_END = 100  # images, before a stream is given up

_log = logging.getLogger(__name__)


class StreamedVisit(NamedTuple):
    """One visit of a row."""

    row: Row
    seed: int  # of every random choice about it
    pass_number: int


@dataclass(frozen=True)
class Reader:
    """One of several readers of the same shards: which rows it visits, and in which order.

    Rows are read in passes. In each pass the shards are put in a new order and dealt to the readers, so that each gets
    the same share of them and every row is read by one of them. Where shards don't come out even, readers share one:
    of ``n`` rows in sequence, ``n`` being the number of readers, each takes its share. A reader goes from pass to pass
    without waiting for the others, whose shards may be larger. Within a pass rows are shuffled in blocks: ``buffer``
    rows are read, and then visited in random order.

    All of it is a function of the seed, the shards and the number of readers, and the number of visits made so far says
    how to go on.

    Args:
        shards: what is read.
        number: which of the readers this is.
        readers: how many there are.
        seed: another one gives other orders.
        buffer: rows in a block, whose encoded images are in memory together.
        is_held_out: rows that must not be visited.
        report: told what is left out.
    """

    shards: Shards
    number: int = 0
    readers: int = 1
    seed: int = 0
    buffer: int = 1000
    is_held_out: Callable[[Row], bool] = lambda row: False
    report: Report = lambda problem: None
    # Of the shards that were read to their end while skipping, how many rows have each remainder modulo `readers`.
    _sizes: dict[int, Counter[int]] = field(default_factory=dict)

    def visits(self, start: int = 0) -> Iterator[StreamedVisit]:
        """All visits but the first ``start``, without end.

        What is skipped is read, but once only: of a later pass it is known then how many rows its shards have.

        Raises:
            UserError: there is nothing to visit.
        """
        idle = 0
        for number in count():
            visits_of_pass = yield from self._pass(number, start)
            start = max(start - visits_of_pass, 0)
            idle = 0 if visits_of_pass else idle + 1
            if idle == self.readers:  # with fewer rows than readers, these take turns in having none
                raise UserError(
                    f"data.path={self.shards.path}: no row to train on in its {len(self.shards)} shards: all are held "
                    "out, of another split, or left out"
                )

    def _pass(self, number: int, start: int) -> Generator[StreamedVisit, None, int]:
        """The visits of a pass but the first ``start``; returns how many it has with these."""
        position = 0
        block_start = start - start % self.buffer
        block: list[Row] = []
        for shard, remainders in self._deal(number):
            if position < block_start:
                size = self._size(shard, remainders)
                if position + size <= block_start:
                    position += size
                    continue
            for row in self._rows(shard, remainders):
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

    def _rows(self, shard: int, remainders: set[int]) -> Iterator[Row]:
        for index, row in enumerate(self.shards.read(shard, self.report)):
            if index % self.readers in remainders and self._is_for_training(row):
                yield row

    def _size(self, shard: int, remainders: set[int]) -> int:
        if shard not in self._sizes:
            rows = enumerate(self.shards.read(shard, self.report))
            self._sizes[shard] = Counter(index % self.readers for index, row in rows if self._is_for_training(row))
        return sum(self._sizes[shard][remainder] for remainder in remainders)

    def _is_for_training(self, row: Row) -> bool:
        return row["split"] in (None, "train") and not self.is_held_out(row)

    def _shuffled(self, block: list[Row], number: int, start: int) -> Iterator[StreamedVisit]:
        block.sort(key=lambda row: _hash(self.seed, number, "place", row["id"]))
        for row in islice(block, max(start, 0), None):
            yield StreamedVisit(row, _hash(self.seed, number, "visit", row["id"]), number)


def _hash(*parts: object) -> int:
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # within the int64 that torch takes


class StreamDataset(IterableDataset[Sample]):
    """The samples of one process of a training, without end, for a :class:`StreamLoader`.

    The samples are a function of the arguments and of the number of loading workers: a stream that starts at batch
    ``k`` goes on exactly as one that has given ``k`` batches, as long as ``batch_size``, ``world_size``, the number of
    workers, ``is_held_out`` and the shards are the same. With another number of processes or workers it starts at about
    the same place of another order: of the pass that was under way, some rows are visited twice and others not.

    An image that turns out to be unusable only when it is decoded keeps its place: the next one is given twice, once
    as a padding sample that doesn't count. Otherwise a place in the stream couldn't be found again without decoding.

    Args:
        shards: what is read.
        make_sample: from a row and the seed of its visit to the sample; None for a row that turns out to be one that
            must not be trained on, and OSError for one whose image can't be read. It goes to workers by pickling.
        batch_size: images per step and process.
        is_held_out: rows that must not be trained on, by what is known before their images are decoded. Those whose
            split is given as another than ``train`` never are.
        rank: number of the process.
        world_size: how many processes train together.
        seed: of the order and of every visit.
        buffer: rows that are shuffled with each other; each worker has the encoded images of so many in memory.
        start_batch: how many batches of each process to skip.

    Raises:
        UserError: while it is read, ``UNUSABLE_ON_END`` images on end can't be used, or there is nothing to train on.
    """

    def __init__(
        self,
        shards: Shards,
        make_sample: Callable[[Row, int], Sample | None],
        *,
        batch_size: int,
        is_held_out: Callable[[Row], bool] | None = None,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        buffer: int = 1000,
        start_batch: int = 0,
    ) -> None:
        super().__init__()
        self.shards = shards
        self.make_sample = make_sample
        self.batch_size = batch_size
        self.is_held_out = is_held_out
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.buffer = buffer
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        # Batch k is that of worker k % workers. A DataLoader asks worker 0 first, wherever the stream starts.
        turn = (self.start_batch + (worker.id if worker else 0)) % workers
        earlier_batches = len(range(turn, self.start_batch, workers))
        left_out = _LeftOut(self.shards.path)
        reader = Reader(
            self.shards,
            number=self.rank * workers + turn,
            readers=self.world_size * workers,
            seed=self.seed,
            buffer=self.buffer,
            is_held_out=self.is_held_out or (lambda row: False),
            report=left_out,
        )
        yield from self._samples(reader.visits(earlier_batches * self.batch_size), left_out)

    def _samples(self, visits: Iterator[StreamedVisit], left_out: "_LeftOut") -> Iterator[Sample]:
        unusable: list[Problem] = []
        for row, seed, _ in visits:
            try:
                sample = self.make_sample(row, seed)
                kind = "near-duplicate of a held-out image"
            except UnidentifiedImageError:
                sample, kind = None, "image can't be read: not an image"
            except OSError as error:
                sample, kind = None, f"image can't be read: {error}"
            if sample is None:
                unusable.append(Problem(kind, row["id"]))
                left_out(unusable[-1])
                if len(unusable) == UNUSABLE_ON_END:
                    raise UserError(
                        f"data.path={self.shards.path}: {len(unusable)} images on end can't be used: "
                        f"{describe(unusable)}"
                    )
                continue
            padding: Any = {**sample, "is_padding": True}
            yield from [padding] * len(unusable)
            unusable.clear()
            yield sample


class _LeftOut:
    """Says what is left out of the stream: the 1st, 10th, 100th, … row or shard of each reader."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.count = 0

    def __call__(self, problem: Problem) -> None:
        self.count += 1
        if str(self.count).strip("0") == "1":
            times = f"left out so far: {self.count}, the last one" if self.count > 1 else "left out"
            _log.warning("data.path=%s: %s %s (%s)", self.path, times, problem.name, problem.kind)


class StreamLoader(DataLoader[Sample]):
    """Batches of a :class:`StreamDataset`: each iteration goes on where the last one stopped, as do the workers.

    Args:
        dataset: the samples.
        epoch_batches: how many batches an iteration has; without end when not given.
        options: of ``DataLoader``.
    """

    def __init__(self, dataset: StreamDataset, *, epoch_batches: int | None = None, **options: Any) -> None:
        super().__init__(dataset, batch_size=dataset.batch_size, **options)
        self.epoch_batches = epoch_batches
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self._batches is None:
            self._batches = super().__iter__()
        for _ in range(self.epoch_batches) if self.epoch_batches else count():
            try:
                yield next(self._batches)
            except UserError as error:  # from a worker it comes with the traceback in its text
                raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2] or str(error)) from None

    def __len__(self) -> int:
        if self.epoch_batches is None:
            raise TypeError("a stream without epoch_batches has no end")
        return self.epoch_batches
