"""CaptionDataModule: captioned images from a source, checked, split, and as batches."""

import logging
import os
from collections.abc import Callable, Set
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import lightning as L
import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor, ProcessorMixin

from captioning.data.augment import Augmenter
from captioning.data.cache import ImageCache, available_cores, data_fingerprint, decode_all
from captioning.data.creatures.dataset import COUNT, creatures_folder
from captioning.data.dataset import Batch, CaptionDataset, Collator, Sample, StreamedSamples
from captioning.data.duplicates import clusters, near_duplicates
from captioning.data.hub_shards import hub_shards
from captioning.data.images import read_image
from captioning.data.issues import LEFT_OUT, NOTICE, DataReport, Issue, by_severity, find_issues
from captioning.data.leakage import LeakageFilter
from captioning.data.rows import Columns, Rows
from captioning.data.sampler import OverfitSampler, ResumableDistributedSampler
from captioning.data.shards import Shards, read_head
from captioning.data.sources import read_hub, read_local
from captioning.data.sources.tars import tar_shards
from captioning.data.splits import SPLITS, read_given_splits, shuffled, split_rows
from captioning.data.statistics import summarize
from captioning.data.stream import StreamDataset, StreamLoader
from captioning.data.transforms import normalize as normalize_pixels
from captioning.errors import UserError, check_arguments, nearest, reason
from captioning.metrics.text import normalize
from captioning.models.processor import fit_images, load_processor, make_image_processor, make_processor
from captioning.terminal import plain
from captioning.training.loop_state import position

log = logging.getLogger(__name__)
T = TypeVar("T")
ISSUES_SHOWN = 6  # at the start of a run
STATE_KEYS = ("epoch", "position", "visits")  # of a DataPosition in a checkpoint


class DataPosition(NamedTuple):
    """How far a training is, in samples of all processes together: how many they are doesn't matter."""

    epoch: int = 0
    samples: int = 0  # of this epoch
    total_samples: int = 0  # of all epochs


class CaptionDataModule(L.LightningDataModule):
    """Captioned images for :class:`captioning.CaptionModule`.

    Args:
        source: ``creatures`` (drawn by code), ``local`` (files of any usual shape) or ``hub``.
        path: a folder or file, or the Hub's ``USER/NAME``.
        images: the folder that image names are relative to, and that none may leave; by default that of ``path``.
        subset: configuration of a Hub data set that has several.
        revision: branch, tag or commit of a Hub data set.
        image_column: column with the image; by default ``file_name``, ``image`` and others.
        caption_column: column with a caption or a list; by default ``text``, ``caption``, ``captions``, ``caption_0`` …
        id_column: column that names the image: rows with the same id are captions of one image.
        group_column: rows with the same value are never in two splits.
        split_column: column with the split; by default ``split``, where there is one.
        stratify_column: each split gets the same share of every value.
        limit: use at most N images, sampled by ``split_seed``; a larger sample contains every smaller one.
        streaming: read tar shards or a Hub data set while training, without keeping it on the disk.
        stream_head: images of a stream that are read first, for validation, test and the check.
        stream_epoch: images in an epoch of a stream.
        strict: stop when anything must be left out, or when near-duplicates are in two of the given splits.
        max_bad_share: stop when more than this share must be left out.
        near_duplicates: keep images that look the same in one split.
        splits_from: a run folder, or a ``splits.json``, whose splits are used.
        val_fraction: share of the images for validation, where the data gives no such split.
        test_fraction: share of the images for the test, likewise.
        split_seed: of the random splits.
        processor: checkpoint whose processor is used; null: one for a model from scratch, with a WordPiece tokenizer
            of the training captions.
        image_size: side of the images in pixels, for a model from scratch (a checkpoint's processor has its own).
        fit: how images are made square; null: as the processor does it, which is ``crop`` for every published GIT.
        captions: which captions of an image a sample trains on: ``sample`` (one at random), ``all`` (at most 20) or
            ``first``. Validation and test always use all as references.
        max_caption_tokens: longer captions are cut.
        augment_crop: largest share of a training image's area that a random crop takes away.
        augment_color_jitter: how much its brightness, contrast and saturation change; 0.2 is up to 20 %.
        augment_flip: share of training samples that are mirrored, where no caption names a side.
        batch_size: images per step and process.
        num_workers: processes that prepare batches, per training process; null: none on a CPU, up to 8 on a GPU.
        seed: of the order of images and of every random choice about them.
        cache: whether resized images are kept on the disk; null: if they take at most half of the free space.
        cache_dir: where resized images and drawn creatures are kept; null: $CAPTIONING_CACHE or ~/.cache/captioning.
    """

    def __init__(
        self,
        *,
        source: Literal["creatures", "local", "hub"] = "local",
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
        limit: Annotated[int, Ge(1)] | None = None,
        streaming: bool = False,
        stream_head: Annotated[int, Ge(1)] = 2000,
        stream_epoch: Annotated[int, Ge(1)] = 100_000,
        strict: bool = False,
        max_bad_share: Annotated[float, Ge(0), Le(1)] = 0.1,
        near_duplicates: bool = True,
        splits_from: str | None = None,
        val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1,
        test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1,
        split_seed: int = 0,
        processor: str | None = "microsoft/git-base",
        image_size: Annotated[int, Ge(1)] = 224,
        fit: Literal["crop", "pad", "squash"] | None = None,
        captions: Literal["sample", "all", "first"] = "sample",
        max_caption_tokens: Annotated[int, Ge(3)] = 128,  # start, a word, end
        augment_crop: Annotated[float, Ge(0), Le(0.5)] = 0.0,
        augment_color_jitter: Annotated[float, Ge(0), Le(0.5)] = 0.0,
        augment_flip: Annotated[float, Ge(0), Le(1)] = 0.0,
        batch_size: Annotated[int, Ge(1)] = 32,
        num_workers: Annotated[int, Ge(0)] | None = None,
        seed: int = 42,
        cache: bool | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        check_arguments(type(self).__init__, locals(), section="data")
        missing = {
            "local": "the folder or file with your images, as in data=local data.path=PATH",
            "hub": "the name of the data set, as in data=hub data.path=USER/NAME",
        }
        if source in missing and not path:
            raise UserError(f"data.path is missing: {missing[source]}")
        if streaming and source == "creatures":
            raise UserError("data.streaming=true: only tar shards and the Hub can be streamed, creatures can't")
        if streaming and limit is not None:
            raise UserError(
                f"data.limit={limit} and data.streaming=true: data.stream_epoch limits an epoch of a stream"
            )
        if val_fraction + test_fraction >= 1:
            given = f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}"
            raise UserError(f"{given} leave nothing to train on; their sum must be below 1")
        self.save_hyperparameters(logger=False)
        self.columns = Columns(**{field.name: self.hparams[f"{field.name}_column"] for field in fields(Columns)})
        self.cache_dir = Path(cache_dir or os.environ.get("CAPTIONING_CACHE") or "~/.cache/captioning").expanduser()
        changes = {"crop": augment_crop, "color": augment_color_jitter, "flip": augment_flip}
        self.augment = Augmenter(**changes) if any(changes.values()) else None
        self.shards: Shards | None = None  # of a stream
        self.image_cache: ImageCache | None = None
        self.cache_index = np.zeros(0, np.int64)  # of each row's image in ``image_cache``
        self.given_held_out: frozenset[str] = frozenset()  # ids that data.splits_from validates and tests on
        self.eval_split = "test"
        self.fingerprint = ""
        self.processor: ProcessorMixin = None  # set before setup(), it goes before ``data.processor``
        self.image_processor: BaseImageProcessor = None
        self.processor_missing = self.splits_missing = ""
        self._report: DataReport | None = None
        self._start = DataPosition()

    # ------------------------------------------------------------ from source to splits

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the images, and load the processor; done once, however often it is called."""
        if self._report is not None:
            return
        report = self.inspect()
        if why := report.blocking_reason(strict=self.hparams["strict"], max_bad_share=self.hparams["max_bad_share"]):
            self._report = None
            raise UserError(why)
        if _is_rank_zero():
            for issue in report.issues[:ISSUES_SHOWN]:
                log.warning(plain(str(issue)))
            if more := report.issues[ISSUES_SHOWN:]:
                log.warning(f"and {len(more)} more issues; `captioning check` shows them all")

    def inspect(self, *, tolerant: bool = False) -> DataReport:
        """Read, decode and split the images, and report what was found, without stopping for it.

        With ``tolerant``, a processor that can't be loaded and images that can't be split don't stop it either:
        ``processor_missing`` and ``splits_missing`` then say why. Captions aren't measured in tokens without the first.
        """
        h = self.hparams

        def attempt(step: Callable[[], T]) -> tuple[T | None, str]:
            try:
                return step(), ""
            except UserError as error:
                if not tolerant:
                    raise
                return None, str(error)

        try:
            rows = self._limit(self._read())
        except OSError as error:
            given = f"data.path={h['path'] or h['source']}: can't be read, or what is read can't be kept in"
            raise UserError(f"{given} data.cache_dir={self.cache_dir} ({reason(error)})") from error
        total = len(rows.table) + len(rows.issues)

        if self.processor is None and h["processor"]:
            self.processor, self.processor_missing = attempt(lambda: load_processor(h["processor"]))
        from_scratch = self.processor is None
        self.image_processor = make_image_processor(h["image_size"]) if from_scratch else self.processor.image_processor
        fit_images(self.image_processor, h["fit"])
        keep_pixels = False if self.processor_missing else h["cache"]
        rows, infos, self.image_cache, self.cache_index = decode_all(
            rows, image_processor=self.image_processor, cache_dir=self.cache_dir / "images", keep_pixels=keep_pixels
        )
        self.fingerprint = data_fingerprint(rows, infos)

        pairs: list[tuple[int, int]] = []
        if h["near_duplicates"] and infos:
            hashes = np.frombuffer(b"".join(info.perceptual_hash for info in infos), np.uint8).reshape(len(infos), -1)
            pairs = near_duplicates(hashes, [info.digest for info in infos])
        found, self.splits_missing = attempt(lambda: self._split(rows, pairs))
        splits, split_issues = found or ({"all": list(range(len(rows.table)))}, [])

        if from_scratch and not self.processor_missing:
            captions = chain.from_iterable(rows.select(splits.get("train", [])).captions)
            lengths = {name: h[name] for name in ("image_size", "max_caption_tokens")}
            self.processor = make_processor(captions, **lengths)
            self.processor.image_processor = self.image_processor
        # Measuring every caption in tokens takes a while, and the first process reports it.
        tokenizer = self.processor.tokenizer if self.processor is not None and _is_rank_zero() else None
        limit = h["max_caption_tokens"]
        issues = find_issues(rows, infos, splits, pairs, tokenizer=tokenizer, max_caption_tokens=limit)
        self._report = DataReport(rows, infos, splits, pairs, by_severity([*issues, *split_issues]), total)
        return self._report

    def _read(self) -> Rows:
        h, shards_dir = self.hparams, self.cache_dir / "shards"
        of_hub = {"subset": h["subset"], "revision": h["revision"], "columns": self.columns}
        if h["streaming"]:
            is_hub = h["source"] == "hub"
            self.shards = hub_shards(h["path"], **of_hub) if is_hub else tar_shards(h["path"], columns=self.columns)
            log.info(f"{len(self.shards):,} shards to stream; {h['stream_head']:,} of their images are read first")
            return read_head(self.shards, h["stream_head"], cache_dir=shards_dir)
        if h["source"] == "hub":
            return read_hub(h["path"], **of_hub)
        if h["source"] == "local":
            return read_local(h["path"], images=h["images"], columns=self.columns, cache_dir=shards_dir)
        return read_local(str(creatures_folder(self.cache_dir, count=min(h["limit"] or COUNT, COUNT))))

    def _limit(self, rows: Rows) -> Rows:
        """A sample of ``limit`` rows, and the same share of the problems."""
        limit, seed = self.hparams["limit"], self.hparams["split_seed"] + 1  # the split's would choose its test images
        if limit is None:
            return rows
        kept = sorted(shuffled(range(len(rows.table)), rows.ids, seed=seed)[:limit])
        bad = shuffled(range(len(rows.issues)), [issue.name for issue in rows.issues], seed=seed)
        bad = sorted(bad[: round(len(kept) / max(len(rows.table), 1) * len(bad))])
        return Rows(rows.table.select(kept), tuple(rows.issues[number] for number in bad))

    def _split(self, rows: Rows, pairs: list[tuple[int, int]]) -> tuple[dict[str, list[int]], list[Issue]]:
        h = self.hparams
        if self.eval_split == "all" or not rows.ids:
            return {"all": list(range(len(rows.ids)))}, []
        if h["splits_from"] is None:
            return split_rows(
                rows.ids,
                rows.column("split"),
                together=clusters(len(rows.table), pairs, rows.column("group")),
                strata=rows.column("stratum"),
                val_fraction=h["val_fraction"],
                test_fraction=h["test_fraction"],
                seed=h["split_seed"],
            ), []
        split_of = read_given_splits(h["splits_from"])
        self.given_held_out = frozenset(name for name, split in split_of.items() if split != "train")
        splits = {split: [row for row, name in enumerate(rows.ids) if split_of.get(name) == split] for split in SPLITS}
        if empty := [split for split in SPLITS if not splits[split]]:
            raise UserError(f"data.splits_from={h['splits_from']}: no image of its {empty[0]} is in the data")
        unnamed = [name for name in rows.ids if name not in split_of]
        absent = [] if self.shards else sorted(split_of.keys() - set(rows.ids))  # of a stream only the head is known
        issues = [
            Issue(LEFT_OUT, "image that data.splits_from doesn't name", unnamed),
            Issue(NOTICE, "image of data.splits_from that isn't in the data", absent),
        ]
        return splits, [issue for issue in issues if issue.names]

    # ------------------------------------------------------------ batches

    def train_dataloader(self) -> DataLoader[Sample]:
        if self.shards is None:
            return self._dataloader("train", training=True)
        h = self.hparams
        held_out = [*self.splits["val"], *self.splits["test"]]
        rows, infos = self.rows.select(held_out), [self.report.image_infos[row] for row in held_out]
        leakage = LeakageFilter.of(rows, infos, self.given_held_out, near_duplicates=h["near_duplicates"])
        dataset = StreamDataset(
            self.shards,
            StreamedSamples(self.image_processor, h["captions"], leakage),
            batch_size=h["batch_size"],
            is_held_out=leakage.matches_row,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self._world_size,
            seed=h["seed"],
            start_batch=self._start.total_samples // self._global_batch,
        )
        epoch_batches = max(1, h["stream_epoch"] // self._global_batch)
        return StreamLoader(dataset, epoch_batches=epoch_batches, **self._loader_options())

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._dataloader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._dataloader(self.eval_split)

    def overfit(self, trainer: L.Trainer) -> None:
        """Validate on the images that ``trainer.overfit_batches`` trains on."""
        given: int | float = trainer.overfit_batches  # type: ignore[attr-defined]  # which Lightning sets elsewhere
        if self.shards is not None:
            both = f"trainer.overfit_batches={given} and data.streaming=true"
            raise UserError(f"{both}: a stream doesn't repeat its batches; leave one of them out")
        size = self.hparams["batch_size"] * trainer.world_size
        rows = self.splits["train"]
        batches = given if isinstance(given, int) else max(1, int(given * -(-len(rows) // size)))
        sampler = OverfitSampler(len(rows), batch_size=size, shuffle=True, seed=self.hparams["seed"])
        self.splits["val"] = [rows[index.row] for index in islice(sampler, batches * size)]
        trainer.limit_train_batches, trainer.limit_val_batches = batches, 1.0  # Lightning would cut this once more
        log.info(f"trainer.overfit_batches={given}: {len(self.splits['val'])} images are trained and validated on")

    def set_eval_split(self, split: str) -> None:
        """Choose the images of the test: ``test``, ``val``, ``train``, or ``all``, which then is the only split."""
        if split not in (*SPLITS, "all"):
            raise UserError(f"split={split}: no such split{nearest(split, [*SPLITS, 'all'])}")
        self.eval_split = split

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training images, and normalize all, on the device: uint8 is a quarter of the bytes to transfer."""
        pixels = batch["pixel_values"]
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            pixels = self.augment(pixels, batch["seed"], batch["references"])
        return {**batch, "pixel_values": normalize_pixels(pixels, self.image_processor)}

    def _dataloader(self, split: str, *, training: bool = False) -> DataLoader[Sample]:
        rows = self.splits[split]
        dataset = CaptionDataset(
            self.rows.table.select(rows),
            self.image_processor,
            captions=self.hparams["captions"] if training else "first",
            image_cache=self.image_cache,
            cache_index=self.cache_index[rows],
        )
        sampler_class = OverfitSampler if getattr(self.trainer, "overfit_batches", 0) else ResumableDistributedSampler
        sampler = sampler_class(
            len(dataset),
            batch_size=self.hparams["batch_size"],
            num_replicas=self._world_size,
            rank=self.trainer.global_rank if self.trainer else 0,
            shuffle=training,
            seed=self.hparams["seed"],
        )
        if training:
            sampler.set_position(epoch=self._start.epoch, position=self._start.samples)
        return DataLoader(dataset, batch_size=self.hparams["batch_size"], sampler=sampler, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after the tokenizer ran
        num_workers, trainer = self.hparams["num_workers"], self.trainer
        if num_workers is None:
            # On a CPU every core computes; its threads would wait for each core that a worker takes.
            on_gpu = trainer is not None and trainer.strategy.root_device.type != "cpu"
            num_workers = min(8, available_cores() // trainer.num_devices) if trainer and on_gpu else 0
        return {
            "collate_fn": Collator(self.processor.tokenizer, self.hparams["max_caption_tokens"]),
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            # Its own, or starting workers would draw from the one that dropout draws from.
            "generator": torch.Generator(),
            "pin_memory": torch.cuda.is_available(),
        }

    # ------------------------------------------------------------ resume

    def state_dict(self) -> dict[str, int]:
        """How far a training is. Lightning keeps it in checkpoints and restores it before it asks for batches."""
        if self.trainer is None or not (self.trainer.training or self.trainer.validating):
            return {}
        epoch, batches, total_batches = position(self.trainer)
        samples = DataPosition(epoch, batches * self._global_batch, total_batches * self._global_batch)
        return dict(zip(STATE_KEYS, samples, strict=True))

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._start = DataPosition(*(state_dict[key] for key in STATE_KEYS))

    def batches_done(self) -> tuple[int, int]:
        """The restored position in batches of this many processes: of the epoch, and of all epochs."""
        size = self._global_batch
        of_epoch = self._start.samples // size
        if self.shards is None:  # an epoch's last batch may not be full
            length = len(self.splits["train"])
            of_epoch = -(-length // size) - max(0, -(-(length - self._start.samples) // size))
        return of_epoch, self._start.total_samples // size

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _global_batch(self) -> int:
        """Samples of all processes in a micro-batch."""
        return int(self.hparams["batch_size"]) * self._world_size

    # ------------------------------------------------------------ what is in it

    @property
    def report(self) -> DataReport:
        if self._report is None:
            raise RuntimeError("the data aren't read yet: call setup(), or let a Trainer do it")
        return self._report

    @property
    def rows(self) -> Rows:
        return self.report.rows

    @property
    def splits(self) -> dict[str, list[int]]:
        return self.report.splits

    @property
    def split_ids(self) -> dict[str, list[str]]:
        ids = self.rows.ids
        return {split: [ids[index] for index in indices] for split, indices in self.splits.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """Statistics of the data, a few samples, and the issues, fit for JSON."""
        sizes = [(info.width, info.height) for info in self.report.image_infos]
        issues = [issue._asdict() for issue in self.report.issues]
        return {**summarize(self.rows, sizes, self.splits), "findings": issues}

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


def _is_rank_zero() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0  # which Lightning sets once it knows
