"""CaptionDataModule: captioned images from a source, checked, split, and as batches."""

import logging
import os
from collections.abc import Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch.utils.data import DataLoader

from captioning.data.augment import Augmentation, Augmenter
from captioning.data.cache import ImageInfo, available_cores, data_fingerprint, decode_all
from captioning.data.creatures.dataset import creatures_folder
from captioning.data.dataset import CAPTIONS, Batch, CaptionChoice, CaptionDataset, Collator, Sample, StreamedSamples
from captioning.data.duplicates import clusters, near_duplicates
from captioning.data.hub_shards import hub_shards
from captioning.data.images import read_image
from captioning.data.issues import LEFT_OUT, NOTICE, DataReport, Issue, by_severity, find
from captioning.data.leakage import LeakageFilter
from captioning.data.pixel_file import PixelFile
from captioning.data.rows import Columns, Rows
from captioning.data.sampler import OverfitSampler, ResumableDistributedSampler
from captioning.data.shards import Shards, read_head
from captioning.data.sources import read_hub, read_local
from captioning.data.sources.tars import tar_shards
from captioning.data.splits import SPLITS, read_given_splits, shuffled, split_rows
from captioning.data.statistics import summarize
from captioning.data.stream import StreamDataset, StreamLoader
from captioning.data.transforms import normalize as normalize_pixels
from captioning.errors import UserError, nearest, reason
from captioning.metrics import normalize
from captioning.models.processor import FITS, fit_images, load_processor, make_image_processor, make_processor
from captioning.terminal import plain
from captioning.training.loop_state import position

# Every process reads the data; one says what it found.
_warn = rank_zero_only(logging.getLogger(__name__).warning)
_say = rank_zero_only(logging.getLogger(__name__).info)

SOURCES = ("creatures", "local", "hub")
FINDINGS_SHOWN = 6  # at the head of a run


class Start(NamedTuple):
    """Where in the data a training begins, in visits of all processes together: how many they are doesn't matter."""

    epoch: int = 0
    position: int = 0  # visits of this epoch that are done
    visits: int = 0  # of all epochs


class CaptionDataModule(L.LightningDataModule):
    """CaptionResult images for :class:`captioning.CaptionModule`.

    Args:
        source: ``creatures`` (drawn by code, nothing to download), ``local`` (files of any usual shape) or ``hub``.
        path: a folder or file, or the Hub's ``USER/NAME``.
        images: the folder that image names are relative to, and that none may leave; by default that of ``path``.
        subset: which configuration of a Hub data set, where it has several.
        revision: branch, tag or commit of a Hub data set.
        image_column: column with the image; ``file_name`` in a folder's metadata, ``image`` elsewhere by default.
        caption_column: column with a caption or a list of them; ``text``, ``caption``, ``captions``, or ``caption_0``,
            ``caption_1`` … by default.
        id_column: column that names the image: rows with the same id are captions of one image.
        group_column: rows with the same value never are in two splits.
        split_column: column with the split; ``split`` by default, where there is one.
        stratify_column: each split gets the same share of every value.
        creatures: how many creatures to draw.
        limit: use no more than so many images, a sample by ``split_seed``; a larger one holds every smaller one.
        streaming: read tar shards or a Hub data set as it is trained on, without keeping it on the disk.
        stream_head: how many images of a stream are read first, in turn from shards all over it, for validation, test
            and the check.
        stream_epoch: images in an epoch of a stream.
        stream_buffer: rows of a stream that are shuffled with each other; each process that reads has their encoded
            images in memory.
        strict: stop when anything must be left out, or when near-duplicates are in two of the given splits.
        max_bad_share: stop when more than this share must be left out.
        near_duplicates: keep images that look the same in one split.
        splits_from: a run folder, or a ``splits.json``, whose splits are taken.
        val_fraction: share of the images that choose the checkpoint, where the data gives no such split.
        test_fraction: share of the images for the final numbers, likewise.
        split_seed: another seed cuts other images.
        processor: checkpoint whose processor prepares images and captions; null makes one for a model from scratch,
            with a WordPiece tokenizer learned from the training captions.
        image_size: side of the images in pixels, for a model from scratch (a checkpoint's processor has its own).
        fit: what is done with images that aren't square: ``crop``, ``pad`` or ``squash``; null: as the processor has
            it, which is ``crop`` for every published GIT.
        captions: what is learned at a visit of an image with several captions: ``sample`` (one by chance), ``all`` or
            ``first``. Validation and test always judge by all of them.
        max_captions: of ``all``, no more than so many, others at each visit.
        max_caption_tokens: longer captions are cut.
        augment_crop: largest share of a training image's area that is cut off by chance.
        augment_color_jitter: how much its brightness, contrast and saturation change by chance; 0.2 is up to 20 %.
        augment_blur: share of its visits in which it is blurred a little.
        augment_flip: share of its visits in which it is mirrored, where no caption names a side.
        batch_size: images per step and process.
        num_workers: processes that prepare batches, per training process; by default none on a CPU, and on GPUs as many
            as there are cores for, up to 8.
        seed: of the order of images and of every random choice about them.
        cache: whether resized images are kept on the disk; null: if they take no more than half of what is free.
        cache_dir: where resized images, what was found of them, and drawn creatures are kept; null: in the folder
            that the environment variable CAPTIONING_CACHE names, or else in ~/.cache/captioning.
    """

    def __init__(
        self,
        *,
        source: str = "local",
        path: str | None = None,
        images: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        id_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        stratify_column: str | None = None,
        creatures: int = 1500,
        limit: int | None = None,
        streaming: bool = False,
        stream_head: int = 2000,
        stream_epoch: int = 100_000,
        stream_buffer: int = 1000,
        strict: bool = False,
        max_bad_share: float = 0.1,
        near_duplicates: bool = True,
        splits_from: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        processor: str | None = "microsoft/git-base",
        image_size: int = 224,
        fit: str | None = None,
        captions: str = "sample",
        max_captions: int = 20,
        max_caption_tokens: int = 128,
        augment_crop: float = 0.0,
        augment_color_jitter: float = 0.0,
        augment_blur: float = 0.0,
        augment_flip: float = 0.0,
        batch_size: int = 32,
        num_workers: int | None = None,
        seed: int = 42,
        cache: bool | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        _check_source(source, path)
        _check_stream(streaming, source, limit)
        _check_choice("captions", captions, CAPTIONS)
        _check_choice("fit", fit, (None, *FITS))
        _check_ranges(creatures=creatures, limit=limit, image_size=image_size, batch_size=batch_size)
        _check_ranges(
            max_captions=max_captions, stream_head=stream_head, stream_epoch=stream_epoch, stream_buffer=stream_buffer
        )
        _check_shares(max_bad_share, val_fraction, test_fraction)
        if max_caption_tokens < 3:
            raise UserError(
                f"data.max_caption_tokens must be at least 3 (start, a word, end), got {max_caption_tokens}"
            )
        if num_workers is not None and num_workers < 0:
            raise UserError(f"data.num_workers must be 0 or more, or null for as many as fit, got {num_workers}")
        augmentation = Augmentation(crop=augment_crop, color=augment_color_jitter, blur=augment_blur, flip=augment_flip)
        self.augment = Augmenter(augmentation) if not augmentation.is_off else None
        self.save_hyperparameters(logger=False)
        self.columns = Columns(
            image=image_column,
            caption=caption_column,
            id=id_column,
            group=group_column,
            split=split_column,
            stratify=stratify_column,
        )
        self.cache_dir = Path(cache_dir or os.environ.get("CAPTIONING_CACHE") or "~/.cache/captioning").expanduser()
        self._choice = CaptionChoice(captions, max_captions)
        self.shards: Shards | None = None  # of a stream
        self.inspection: DataReport | None = None
        self.pixels: PixelFile | None = None
        self.cache_index = np.zeros(0, np.int64)  # of each row's image in ``pixels``
        self.given_held_out: frozenset[str] = frozenset()  # ids that data.splits_from validates and tests on
        self.eval_split = "test"
        self.fingerprint = ""
        self.image_processor: Any = None
        self.processor: Any = None
        self.processor_missing = self.splits_missing = ""
        self._start = Start()

    # ------------------------------------------------------------ from source to splits

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the images, and load the processor; done once, however often it is called.

        Raises:
            UserError: the data can't be used, or too much of them (with ``strict``: any).
        """
        if self.inspection is not None:
            return
        inspection = self.inspect()
        if reason := inspection.stop(strict=self.hparams["strict"], max_bad_share=self.hparams["max_bad_share"]):
            self.inspection = None
            raise UserError(reason)
        for finding in inspection.findings[:FINDINGS_SHOWN]:
            _warn(plain(str(finding)))
        if more := inspection.findings[FINDINGS_SHOWN:]:
            _warn(f"and {len(more)} more findings; `captioning check` shows them all")

    def set_processor(self, processor: Any) -> None:
        """Prepare images and captions by this processor, in place of the one that ``data.processor`` says."""
        self.processor = processor

    def inspect(self, *, tolerant: bool = False) -> DataReport:
        """Read, examine and split the images, and tell what was found, without stopping for it.

        Args:
            tolerant: go on when the checkpoint's processor can't be had, without telling anything of tokens, and when
                the images can't be split; ``processor_missing`` and ``splits_missing`` then say why.

        Raises:
            UserError: nothing can be used.
        """
        h: Any = self.hparams
        try:
            rows = self._limited(self._read())
        except OSError as error:
            raise UserError(
                f"data.path={h.path or h.source}: can't be read, or what is read can't be kept in "
                f"data.cache_dir={self.cache_dir} ({reason(error)})"
            ) from error
        seen = len(rows.table) + len(rows.issues)
        self.image_processor = self._load_processor(tolerant)
        rows, facts, self.pixels, self.cache_index = decode_all(
            rows,
            image_processor=self.image_processor,
            cache_dir=self.cache_dir / "images",
            keep_pixels=False if self.processor_missing else h.cache,
        )
        self.fingerprint = data_fingerprint(rows, facts)
        pairs = self._near_duplicates(facts)
        try:
            splits, further = self._split(rows, pairs)
        except UserError as error:
            if not tolerant:
                raise
            splits, further, self.splits_missing = {"all": list(range(len(rows.table)))}, [], str(error)
        if self.processor is None and not self.processor_missing:
            self.processor = self._make_processor(rows, splits)
        # It takes a while to measure every caption in tokens, and one process says what is found.
        tokenizer = self.processor.tokenizer if self.processor and _is_first_process() else None
        findings = find(rows, facts, splits, pairs, tokenizer=tokenizer, max_caption_tokens=h.max_caption_tokens)
        self.inspection = DataReport(rows, facts, splits, pairs, by_severity([*findings, *further]), seen)
        return self.inspection

    def _load_processor(self, tolerant: bool) -> Any:
        """The image processor, with the checkpoint's processor that it is of, where there is one."""
        h: Any = self.hparams
        try:
            if self.processor is None and h.processor:
                self.processor = load_processor(h.processor)
        except UserError as error:
            if not tolerant:
                raise
            self.processor_missing = str(error)
        image_processor = self.processor.image_processor if self.processor else make_image_processor(h.image_size)
        fit_images(image_processor, h.fit)
        return image_processor

    def _near_duplicates(self, facts: list[ImageInfo]) -> list[tuple[int, int]]:
        if not self.hparams["near_duplicates"] or not facts:
            return []
        looks = np.frombuffer(b"".join(found.look for found in facts), np.uint8).reshape(len(facts), -1)
        return near_duplicates(looks, [found.digest for found in facts])

    def _split(self, rows: Rows, pairs: list[tuple[int, int]]) -> tuple[dict[str, list[int]], list[Issue]]:
        h: Any = self.hparams
        if self.eval_split == "all" or not len(rows.table):
            return {"all": list(range(len(rows.table)))}, []
        if h.splits_from is not None:
            return self._given_splits(rows.ids)
        splits = split_rows(
            rows.ids,
            rows.column("split"),
            together=clusters(len(rows.table), pairs, rows.column("group")),
            strata=rows.column("stratum"),
            val_fraction=h.val_fraction,
            test_fraction=h.test_fraction,
            seed=h.split_seed,
        )
        return splits, []

    def _given_splits(self, ids: list[str]) -> tuple[dict[str, list[int]], list[Issue]]:
        given = read_given_splits(self.hparams["splits_from"], ids)
        splits = {split: [row for row, its in enumerate(given.given) if its == split] for split in SPLITS}
        self.given_held_out = given.held_out
        for split, rows in splits.items():
            if not rows:
                raise UserError(
                    f"data.splits_from={self.hparams['splits_from']}: no image of its {split} is in the data"
                )
        findings = [
            Issue(LEFT_OUT, "image that data.splits_from doesn't name", given.unnamed),
            # Of a stream only the head is known.
            Issue(NOTICE, "image of data.splits_from that isn't in the data", [] if self.shards else given.absent),
        ]
        return splits, [finding for finding in findings if finding.names]

    def _read(self) -> Rows:
        h: Any = self.hparams
        if h.streaming:
            shards = (
                hub_shards(h.path, subset=h.subset, revision=h.revision, columns=self.columns)
                if h.source == "hub"
                else tar_shards(h.path, columns=self.columns)
            )
            self.shards = shards
            _say(f"{len(shards):,} shards to stream; {h.stream_head:,} of their images are read now and checked")
            return read_head(shards, h.stream_head, cache_dir=self.cache_dir / "shards")
        if h.source == "hub":
            return read_hub(h.path, subset=h.subset, revision=h.revision, columns=self.columns)
        if h.source == "local":
            return read_local(h.path, images=h.images, columns=self.columns, cache_dir=self.cache_dir / "shards")
        return read_local(str(creatures_folder(self.cache_dir, count=h.creatures)))

    def _limited(self, rows: Rows) -> Rows:
        h: Any = self.hparams
        if h.limit is None:
            return rows
        # Every split gives its share. Another seed than the split's, whose first rows are all of its test images.
        seed = h.split_seed + 1
        kept = sorted(shuffled(range(len(rows.table)), rows.ids, seed=seed)[: h.limit])
        # What is bad has its share in the sample, or it would be held against a few good rows.
        bad = shuffled(range(len(rows.issues)), [problem.name for problem in rows.issues], seed=seed)
        bad = sorted(bad[: round(len(kept) / max(len(rows.table), 1) * len(bad))])
        return Rows(rows.table.select(kept), tuple(rows.issues[number] for number in bad))

    def _make_processor(self, rows: Rows, splits: dict[str, list[int]]) -> Any:
        learned = rows.select(splits.get("train", [])).captions
        processor = make_processor(
            (caption for captions in learned for caption in captions),
            image_size=self.hparams["image_size"],
            max_caption_tokens=self.hparams["max_caption_tokens"],
        )
        processor.image_processor = self.image_processor
        return processor

    # ------------------------------------------------------------ batches

    def train_dataloader(self) -> DataLoader[Sample]:
        return self._stream() if self.shards is not None else self._dataloader("train", training=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._dataloader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._dataloader(self.eval_split)

    def overfit(self, trainer: L.Trainer) -> None:
        """Validate on the images that ``trainer.overfit_batches`` trains on: are they learned by heart?

        Raises:
            UserError: the data are streamed.
        """
        given = _overfit_batches(trainer)
        if self.shards is not None:
            raise UserError(
                f"trainer.overfit_batches={given} and data.streaming=true: a stream's batches don't come back; leave "
                "one of them out"
            )
        size = self.hparams["batch_size"] * trainer.world_size
        rows = self.splits["train"]
        batches = given if isinstance(given, int) else max(1, int(given * -(-len(rows) // size)))
        visits = OverfitSampler(len(rows), batch_size=size, shuffle=True, seed=self.hparams["seed"])
        self.splits["val"] = [rows[visit.row] for visit in islice(visits, batches * size)]
        trainer.limit_train_batches, trainer.limit_val_batches = batches, 1.0  # Lightning would cut this once more
        _say(f"trainer.overfit_batches={given}: {len(self.splits['val'])} images are trained and validated on")

    def set_eval_split(self, split: str) -> None:
        """Choose the images of the test: ``test``, ``val``, ``train``, or ``all``, which then is the only split.

        Raises:
            UserError: there is no such split.
        """
        if split not in (*SPLITS, "all"):
            raise UserError(f"split={split}: no such split{nearest(split, [*SPLITS, 'all'])}")
        self.eval_split = split

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training images, and normalize all, on the device: a quarter of the bytes has to get there."""
        pixels = batch["pixel_values"]
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            pixels = self.augment(pixels, batch["seed"], batch["references"])
        return {**batch, "pixel_values": normalize_pixels(pixels, self.image_processor)}

    def _dataloader(self, split: str, *, training: bool = False) -> DataLoader[Sample]:
        rows = self.splits[split]
        dataset = CaptionDataset(
            self.rows.table.select(rows),
            self.image_processor,
            choice=self._choice if training else CaptionChoice("first"),
            pixels=self.pixels,
            cache_index=self.cache_index[rows],
        )
        sampler = (OverfitSampler if self.trainer and _overfit_batches(self.trainer) else ResumableDistributedSampler)(
            len(dataset),
            batch_size=self.hparams["batch_size"],
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            shuffle=training,
            seed=self.hparams["seed"],
        )
        if training:
            sampler.set_position(epoch=self._start.epoch, position=self._start.position)
        return DataLoader(dataset, batch_size=self.hparams["batch_size"], sampler=sampler, **self._loading())

    def _stream(self) -> StreamLoader:
        assert self.shards is not None
        h: Any = self.hparams
        held_out = LeakageFilter.of(
            self.rows,
            self._inspected.facts,
            [*self.splits["val"], *self.splits["test"]],
            further=self.given_held_out,
            near_duplicates=h.near_duplicates,
        )
        dataset = StreamDataset(
            self.shards,
            StreamedSamples(self.image_processor, self._choice, held_out),
            batch_size=h.batch_size,
            is_held_out=held_out.matches_row,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            seed=h.seed,
            buffer=h.stream_buffer,
            start_batch=self._start.visits // self._global_batch,
        )
        return StreamLoader(dataset, epoch_batches=max(1, h.stream_epoch // self._global_batch), **self._loading())

    def _loading(self) -> dict[str, Any]:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after the tokenizer ran
        num_workers = self._num_workers()
        return {
            "collate_fn": Collator(self.processor.tokenizer, self.hparams["max_caption_tokens"]),
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            # Its own, or starting workers would draw from the one that dropout draws from.
            "generator": torch.Generator(),
            "pin_memory": torch.cuda.is_available(),
        }

    def _num_workers(self) -> int:
        if self.hparams["num_workers"] is not None:
            return int(self.hparams["num_workers"])
        if self.trainer is None or self.trainer.strategy.root_device.type == "cpu":
            return 0  # every core works for the network; its threads would wait for each one that a worker takes
        return min(8, available_cores() // self.trainer.num_devices)

    # ------------------------------------------------------------ where a training is in them

    def state_dict(self) -> dict[str, int]:
        """How far a training is. Lightning keeps it in checkpoints and gives it back before it asks for batches."""
        if self.trainer is None or not (self.trainer.training or self.trainer.validating):
            return {}
        epoch, batches, total_batches = position(self.trainer)
        return Start(epoch, batches * self._global_batch, total_batches * self._global_batch)._asdict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._start = Start(**state_dict)

    def batches_done(self) -> tuple[int, int]:
        """What the restored place is in batches of this many processes: of the epoch, and of all epochs."""
        size = self._global_batch
        of_epoch = self._start.position // size
        if self.shards is None:  # an epoch's last batch may not be full
            length = len(self.splits["train"])
            of_epoch = -(-length // size) - max(0, -(-(length - self._start.position) // size))
        return of_epoch, self._start.visits // size

    @property
    def _global_batch(self) -> int:
        """Visits of all processes in a micro-batch."""
        return int(self.hparams["batch_size"]) * (self.trainer.world_size if self.trainer else 1)

    # ------------------------------------------------------------ what is in it

    @property
    def rows(self) -> Rows:
        """The rows that can be used."""
        return self._inspected.rows

    @property
    def splits(self) -> dict[str, list[int]]:
        """Row numbers of each split."""
        return self._inspected.splits

    @property
    def split_ids(self) -> dict[str, list[str]]:
        """The ids of the images in each split."""
        ids = self.rows.ids
        return {split: [ids[index] for index in indices] for split, indices in self.splits.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """The data in numbers, a few samples, and what was found of them, fit for JSON."""
        sizes = [(found.width, found.height) for found in self._inspected.facts]
        findings = [finding._asdict() for finding in self._inspected.findings]
        return {**summarize(self.rows, sizes, self.splits), "findings": findings}

    def captions(self, split: str) -> list[list[str]]:
        """The captions of each image of a split."""
        return self.rows.select(self.splits.get(split, [])).captions

    def normalized_captions(self, ids: Set[str]) -> frozenset[str]:
        """The captions of some images as metrics see them."""
        rows = zip(self.rows.ids, self.rows.captions, strict=True)
        return frozenset(normalize(caption) for name, captions in rows if name in ids for caption in captions)

    def image(self, split: str, row: int) -> Image.Image:
        """An image of a split, by its number in the split."""
        return read_image(self.rows.table[self.splits[split][row]]["image"])

    @property
    def _inspected(self) -> DataReport:
        if self.inspection is None:
            raise RuntimeError("the data aren't read yet: call setup(), or let a Trainer do it")
        return self.inspection


@rank_zero_only
def _is_first_process() -> bool:
    return True  # and None in the others


def _overfit_batches(trainer: L.Trainer) -> int | float:
    batches: int | float = trainer.overfit_batches  # type: ignore[attr-defined]  # which Lightning sets elsewhere
    return batches


def _check_source(source: str, path: str | None) -> None:
    _check_choice("source", source, SOURCES)
    if source == "local" and not path:
        raise UserError("data.path is missing: the folder or file with your images, as in data=local data.path=PATH")
    if source == "hub" and not path:
        raise UserError("data.path is missing: the name of the data set, as in data=hub data.path=USER/NAME")


def _check_stream(streaming: bool, source: str, limit: int | None) -> None:
    if streaming and source == "creatures":
        raise UserError("data.streaming=true: creatures are drawn on this disk; tar shards and the Hub can be streamed")
    if streaming and limit is not None:
        raise UserError(
            f"data.limit={limit} and data.streaming=true: how much of a stream is read is set by data.stream_epoch"
        )


def _check_choice(name: str, value: str | None, choices: Sequence[str | None]) -> None:
    if value not in choices:
        names = [choice or "null" for choice in choices]
        raise UserError(f"data.{name}={value}: no such choice{nearest(str(value), names)}")


def _check_ranges(**at_least_one: int | None) -> None:
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise UserError(f"data.{name} must be at least 1, got {value}")


def _check_shares(max_bad_share: float, val_fraction: float, test_fraction: float) -> None:
    if not 0 <= max_bad_share <= 1:
        raise UserError(f"data.max_bad_share is a share, between 0 and 1, got {max_bad_share}")
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 1:
            raise UserError(f"data.{name} must be between 0 and 1 (0.1 is a tenth of the images), got {fraction}")
    if val_fraction + test_fraction >= 1:
        raise UserError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave nothing to train on; "
            "their sum must be below 1"
        )
