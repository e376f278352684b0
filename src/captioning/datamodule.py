"""CaptionDataModule: captioned pictures from a source, checked, split, and as batches."""

import logging
import os
from collections.abc import Set
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch.utils.data import DataLoader

from captioning.data.batches import CaptionDataset, Collator, Sample
from captioning.data.check import check_pictures
from captioning.data.creatures import creatures_folder
from captioning.data.folder import read_folder
from captioning.data.hub_dataset import read_hub
from captioning.data.pictures import decode, read_bytes
from captioning.data.rows import Rows, describe
from captioning.data.splits import SPLITS, shuffled, split_rows
from captioning.data.summary import summarize
from captioning.data.visits import VisitSampler
from captioning.errors import UserError, nearest
from captioning.metrics import normalize
from captioning.processor import load_processor, make_processor

# Every process reads the data; one says what it found.
_warn = rank_zero_only(logging.getLogger(__name__).warning)

SOURCES = ("creatures", "folder", "hub")


class CaptionDataModule(L.LightningDataModule):
    """Captioned pictures for :class:`captioning.CaptionModule`.

    Args:
        source: ``creatures`` (drawn by code, nothing to download), ``folder`` or ``hub``.
        path: the folder, or the Hub's ``USER/NAME``.
        subset: which configuration of a Hub data set, where it has several.
        image_column: column with the picture; ``file_name`` in a folder's metadata, ``image`` on the Hub by default.
        caption_column: column with a caption or a list of them; the first of ``text``, ``caption``, ``captions`` by
            default.
        creatures: how many creatures to draw.
        limit: use no more than so many pictures, a sample by ``split_seed``; a larger one holds every smaller one.
        val_fraction: share of the pictures that choose the checkpoint, where the data gives no such split.
        test_fraction: share of the pictures for the final numbers, likewise.
        split_seed: another seed cuts other pictures.
        processor: checkpoint whose processor prepares pictures and captions; null makes one for a model from scratch,
            with a WordPiece tokenizer learned from the training captions.
        image_size: side of the pictures in pixels, for a model from scratch (a checkpoint's processor has its own).
        max_caption_tokens: longer captions are cut.
        batch_size: pictures per step and process.
        num_workers: processes that prepare batches, per training process; by default none on a CPU, and on GPUs as many
            as there are cores for, up to 8.
        seed: of the order of pictures and of every random choice about them.
        cache_dir: where drawn creatures are kept.
    """

    def __init__(
        self,
        *,
        source: str = "folder",
        path: str | None = None,
        subset: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        creatures: int = 1500,
        limit: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        processor: str | None = "microsoft/git-base",
        image_size: int = 224,
        max_caption_tokens: int = 128,
        batch_size: int = 32,
        num_workers: int | None = None,
        seed: int = 42,
        cache_dir: str = "~/.cache/captioning",
    ) -> None:
        super().__init__()
        _check_source(source, path)
        _check_ranges(creatures=creatures, limit=limit, image_size=image_size, batch_size=batch_size)
        if max_caption_tokens < 3:
            raise UserError(
                f"data.max_caption_tokens must be at least 3 (start, a word, end), got {max_caption_tokens}"
            )
        if num_workers is not None and num_workers < 0:
            raise UserError(f"data.num_workers must be 0 or more, or null for as many as fit, got {num_workers}")
        for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 < fraction < 1:
                raise UserError(f"data.{name} must be between 0 and 1 (0.1 is a tenth of the pictures), got {fraction}")
        if val_fraction + test_fraction >= 1:
            raise UserError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave nothing to train on; "
                "their sum must be below 1"
            )
        self.save_hyperparameters(logger=False)
        self.rows: Rows | None = None
        self.sizes: list[tuple[int, int]] = []
        self.splits: dict[str, list[int]] = {}
        self.tested = "test"
        self.fingerprint = ""
        self.processor: Any = None

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the pictures, and load the processor; done once, however often it is called."""
        if self.rows is not None:
            return
        rows, self.sizes, self.fingerprint = check_pictures(self._read())
        if rows.problems:
            _warn(f"left out of the data: {describe(rows.problems)}")
        if not len(rows.table):
            raise UserError(f"data.path={self.hparams['path']}: no usable pictures left")
        self.splits = self._split(rows)
        self.rows = rows
        self.processor = self._make_processor()
        self._report_cut_captions()

    def train_dataloader(self) -> DataLoader[Sample]:
        return self._dataloader("train", training=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._dataloader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._dataloader(self.tested)

    def test_on(self, split: str) -> None:
        """Choose the pictures of the test: ``test``, ``val``, ``train``, or ``all``, which then is the only split.

        Raises:
            UserError: there is no such split.
        """
        if split not in (*SPLITS, "all"):
            raise UserError(f"split={split}: no such split{nearest(split, [*SPLITS, 'all'])}")
        self.tested = split

    @property
    def split_ids(self) -> dict[str, list[str]]:
        """The ids of the pictures in each split."""
        assert self.rows is not None
        ids = self.rows.ids
        return {split: [ids[index] for index in indices] for split, indices in self.splits.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """The data in numbers and a few samples, fit for JSON."""
        assert self.rows is not None
        return summarize(self.rows, self.sizes, self.splits)

    def captions(self, split: str) -> list[list[str]]:
        """The captions of each picture of a split."""
        assert self.rows is not None
        return list(self.rows.table.select(self.splits.get(split, []))["captions"])

    def normalized_captions(self, ids: Set[str]) -> frozenset[str]:
        """The captions of some pictures as metrics see them."""
        assert self.rows is not None
        rows = zip(self.rows.ids, self.rows.captions, strict=True)
        return frozenset(normalize(caption) for name, captions in rows if name in ids for caption in captions)

    def picture(self, split: str, row: int) -> Image.Image:
        """A picture of a split, by its number in the split."""
        assert self.rows is not None
        return decode(read_bytes(self.rows.table[self.splits[split][row]]["image"]))

    def _split(self, rows: Rows) -> dict[str, list[int]]:
        if self.tested == "all":
            return {"all": list(range(len(rows.table)))}
        return split_rows(
            rows.ids,
            list(rows.table["split"]),
            val_fraction=self.hparams["val_fraction"],
            test_fraction=self.hparams["test_fraction"],
            seed=self.hparams["split_seed"],
        )

    def _read(self) -> Rows:
        h: Any = self.hparams
        columns = {"image_column": h.image_column, "caption_column": h.caption_column}
        if h.source == "hub":
            rows = read_hub(h.path, subset=h.subset, **columns)
        elif h.source == "folder":
            rows = read_folder(h.path, **columns)
        else:
            rows = read_folder(str(creatures_folder(Path(h.cache_dir).expanduser(), count=h.creatures)))
        if h.limit is None:
            return rows
        # Every split gives its share. Another seed than the split's, whose first rows are all of its test pictures.
        return rows.select(sorted(shuffled(range(len(rows.table)), rows.ids, seed=h.split_seed + 1)[: h.limit]))

    def _make_processor(self) -> Any:
        if self.hparams["processor"] is not None:
            return load_processor(self.hparams["processor"])
        return make_processor(
            (caption for captions in self.captions("train") for caption in captions),
            image_size=self.hparams["image_size"],
            max_caption_tokens=self.hparams["max_caption_tokens"],
        )

    def _report_cut_captions(self) -> None:
        captions = [caption for captions in self.captions("train") for caption in captions]
        lengths = self.processor.tokenizer(captions, return_length=True, verbose=False).length if captions else []
        long = [
            caption
            for caption, length in zip(captions, lengths, strict=True)
            if length > self.hparams["max_caption_tokens"]
        ]
        if long:
            _warn(
                f"{len(long)} of {len(captions)} training captions are longer than "
                f"data.max_caption_tokens={self.hparams['max_caption_tokens']} and are cut, such as {long[0][:60]!r}…"
            )

    def _dataloader(self, split: str, *, training: bool = False) -> DataLoader[Sample]:
        assert self.rows is not None
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after the tokenizer ran
        table = self.rows.table.select(self.splits[split])
        dataset = CaptionDataset(table, self.processor, sample_captions=training)
        sampler = VisitSampler(
            len(dataset),
            batch_size=self.hparams["batch_size"],
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            shuffle=training,
            seed=self.hparams["seed"],
        )
        num_workers = self._num_workers()
        return DataLoader(
            dataset,
            batch_size=self.hparams["batch_size"],
            sampler=sampler,
            collate_fn=Collator(self.processor.tokenizer, self.hparams["max_caption_tokens"]),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # its own, or starting workers would draw from the one that dropout draws from
            pin_memory=torch.cuda.is_available(),
        )

    def _num_workers(self) -> int:
        if self.hparams["num_workers"] is not None:
            return int(self.hparams["num_workers"])
        if self.trainer is None or self.trainer.strategy.root_device.type == "cpu":
            return 0  # every core works for the network; its threads would wait for each one that a worker takes
        return min(8, (os.cpu_count() or 1) // self.trainer.num_devices)


def _check_source(source: str, path: str | None) -> None:
    if source not in SOURCES:
        raise UserError(f"data.source={source}: no such source{nearest(source, list(SOURCES))}")
    if source == "folder" and path is None:
        raise UserError("data.path is missing: the folder with your pictures, as in data=folder data.path=FOLDER")
    if source == "hub" and path is None:
        raise UserError("data.path is missing: the name of the data set, as in data=hub data.path=USER/NAME")
    if source == "folder" and not Path(str(path)).expanduser().is_dir():
        raise UserError(f"data.path={path}: no such folder; it must hold pictures and their captions")


def _check_ranges(**at_least_one: int | None) -> None:
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise UserError(f"data.{name} must be at least 1, got {value}")
