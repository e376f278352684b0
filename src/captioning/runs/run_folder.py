"""What a run leaves behind: written while it runs, and read years later without torch."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

import yaml
from filelock import FileLock, Timeout

from captioning.errors import UserError, reason
from captioning.files import replacing, write_json, write_json_lines, write_text

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

    from captioning.metrics.metric import FloatArray

Json = dict[str, Any]  # an object of a file, checked no further
_Kind = TypeVar("_Kind")

LOCK = ".lock"
PACKAGES = (
    *("captioning", "torch", "lightning", "transformers", "datasets", "torchmetrics", "hydra-core", "omegaconf"),
    *("tokenizers", "pillow", "numpy", "wandb"),
)
WAY_OUT = "remove the file to do without it"


class Prediction(TypedDict):
    """A line of ``predictions.jsonl``."""

    id: str
    references: list[str]
    prediction: str


class Series(NamedTuple):
    """A number over training: steps in rising order, (points,), and values, (points,), which may be nan or infinite."""

    steps: FloatArray
    values: FloatArray


class RunFolder:
    """A run's folder, which need not exist. Each property is a file, read once; None where the file is missing.

    Reading a property raises a ``UserError`` that names the file where it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def config(self) -> Json | None:
        """The settings as composed; an interpolation is the text that it is."""
        return read_mapping(self.path / ".hydra" / "config.yaml")

    @cached_property
    def overrides(self) -> list[str] | None:
        """What was given on the command line."""
        overrides = _read(self.path / ".hydra" / "overrides.yaml", list)
        return None if overrides is None else list(map(str, overrides))

    @cached_property
    def hydra_runtime(self) -> Json:
        """Where and how Hydra started the run: ``cwd``, ``choices`` by config group; empty where that isn't known."""
        hydra = (read_mapping(self.path / ".hydra" / "hydra.yaml") or {}).get("hydra") or {}
        return hydra.get("runtime") or {}

    @cached_property
    def environment(self) -> Json | None:
        """Versions, machine and data, as :func:`current_environment` gives them."""
        return read_mapping(self.path / "environment.json")

    @cached_property
    def splits(self) -> dict[str, list[str]] | None:
        """The ids of each split."""
        return read_mapping(self.path / "splits.json")

    @cached_property
    def data(self) -> Json | None:
        """The data in numbers, what the check found, and samples."""
        data = read_mapping(self.path / "data.json")
        for facts in (data or {}).get("splits", {}).values():
            facts.setdefault("images", facts.get("pictures"))  # its key before 0.2
        return data

    @cached_property
    def metrics(self) -> Json | None:
        """The final numbers; a run with them has ended."""
        return read_mapping(self.path / "metrics.json")

    @cached_property
    def curves(self) -> dict[str, Series] | None:
        """Each number of ``metrics.csv`` over the steps taken (loggers count from 0); of one taken again, the last."""
        text = _read_text(self.path / "metrics.csv")
        if text is None:
            return None
        import numpy as np

        columns: dict[str, dict[float, float]] = {}
        whole_lines = text.split("\n")[:-1]  # the one after the last line break may still be being written
        with _parsing(self.path / "metrics.csv", "a table of numbers"):
            for row in csv.DictReader(whole_lines):
                for name, value in row.items():
                    if row.get("step") and name not in ("step", "epoch") and value:
                        name = name.replace("pictures_per_second", "images_per_second")  # its name before 0.2
                        columns.setdefault(name, {})[float(row["step"]) + 1] = float(value)
        return {name: Series(*np.array(sorted(points.items())).T) for name, points in columns.items()}

    @cached_property
    def predictions(self) -> dict[str, Prediction] | None:
        """The test captions by the id of their image, in the order of the data."""
        path = self.path / "predictions.jsonl"
        lines = _read_json_lines(path, keys=Prediction.__annotations__.keys())
        if lines is None:
            return None
        predictions: dict[str, Prediction] = {}
        for number, line in enumerate(lines, start=1):
            image, references, caption = line["id"], line["references"], line["prediction"]
            texts = [image, caption, *references] if isinstance(references, list) and references else [None]
            if not all(isinstance(text, str) for text in texts):
                raise UserError(f"{path}, line {number}: id and prediction must be text, references a list of texts")
            if image in predictions:
                raise UserError(f"{path}, line {number}: the image {image} is there twice")
            predictions[image] = Prediction(id=image, references=references, prediction=caption)
        return predictions

    @cached_property
    def gallery(self) -> list[Json] | None:
        """A few validation captions for each validation."""
        return _read_json_lines(self.path / "gallery.jsonl", keys={"step", "id", "references", "prediction"})

    @cached_property
    def alarms(self) -> list[Json] | None:
        """A line for each validation and test whose captions had collapsed."""
        return _read_json_lines(self.path / "alarms.jsonl", keys={"step", "split", "kind", "message"})

    @cached_property
    def thumbnails(self) -> dict[tuple[str, str], bytes]:
        """Small JPEGs by split and id; empty where there are none."""
        path = self.path / "thumbnails.parquet"
        if not path.exists():
            return {}
        import pyarrow.parquet as pq  # a fifth of a second, which a user's mistake needn't wait for

        with _parsing(path, "a Parquet file"):
            rows = pq.read_table(path).to_pylist()
        return {(row["split"], row["id"]): row["jpeg"] for row in rows}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Have the folder for this process alone, or raise a ``UserError``; one that stays empty is removed."""
        lock = FileLock(self.path / LOCK, blocking=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (Timeout, OSError) as error:
            is_taken = isinstance(error, Timeout)
            why = "another run is at work in this folder; wait for it, or" if is_taken else f"{reason(error)};"
            raise UserError(f"{self.path}: {why} take another one with hydra.run.dir=DIR") from error
        try:
            yield
        finally:
            if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {LOCK}:
                shutil.rmtree(self.path)  # before the lock is let go, or it might be another's by then
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process is at work in the folder."""
        locked = (self.path / LOCK).exists()
        if locked:
            with suppress(Timeout), FileLock(self.path / LOCK, timeout=0):
                locked = False
        return locked

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the folder, whole; what was read before is read again."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path / name, text)
        self._forget()

    def write_json(self, name: str, content: object) -> None:
        """Write a file of JSON."""
        write_json(self.path / name, content)
        self._forget()

    def write_json_lines(self, name: str, lines: Iterable[Mapping[str, object]]) -> None:
        """Write a file with a JSON object a line."""
        write_json_lines(self.path / name, lines)
        self._forget()

    def add_thumbnails(self, split: str, images: Mapping[str, Image.Image]) -> None:
        """Add small copies of images of a split, by id; one that is there already is replaced."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from captioning.runs.thumbnails import small_jpeg

        thumbnails = self.thumbnails | {(split, name): small_jpeg(image) for name, image in images.items()}
        rows = [{"split": split, "id": name, "jpeg": jpeg} for (split, name), jpeg in thumbnails.items()]
        schema = pa.schema([("split", pa.string()), ("id", pa.string()), ("jpeg", pa.binary())])
        with replacing(self.path / "thumbnails.parquet") as part:
            pq.write_table(pa.Table.from_pylist(rows, schema), part)
        self._forget()

    def _forget(self) -> None:
        self.__dict__ = {"path": self.path}


def write_model(folder: Path, *, network: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Save a Hugging Face folder that ``AutoProcessor`` and ``AutoModelForCausalLM`` load: safetensors, no pickle."""
    from safetensors import SafetensorError

    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        network.save_pretrained(part)
        processor.save_pretrained(part)
        for weights in part.glob("*.safetensors"):  # written for its owner alone, unlike everything beside it
            weights.chmod((part / "config.json").stat().st_mode)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except SafetensorError as error:  # how safetensors says that the disk is full
        raise UserError(f"{folder}: the model can't be written ({error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def current_environment(*, data_fingerprint: str, evaluated_split: str, devices: str) -> Json:
    """What it takes to tell whether two runs are comparable: versions, code, machine and data."""
    import torch  # here, because reading a run takes no second

    packages: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    commit = None
    with suppress(OSError, subprocess.SubprocessError):  # not a git checkout
        commit = {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain")}
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "packages": packages,
        "git": commit,
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpu_count": os.cpu_count(),
        "devices": devices,
        "cuda": torch.version.cuda,
        "data_fingerprint": data_fingerprint,
        "evaluated_split": evaluated_split,
    }


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values as text by dotted keys; an interpolation is the text that it is."""
    leaves: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            is_text = isinstance(value, str) and value
            leaves[f"{prefix}{key}"] = value if is_text else json.dumps(value, ensure_ascii=False, default=str)
    return leaves


def read_mapping(path: Path) -> Json | None:
    """The mapping in a JSON or YAML file; None where there is no such file, a ``UserError`` where it is damaged."""
    return _read(path, dict)


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    text = _read_text(path)
    if text is None:
        return None
    with _parsing(path, path.suffix[1:].upper()):
        if path.suffix == ".yaml":
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as safe, and ten times as fast
            content = yaml.load(text, Loader=loader)
        else:
            content = json.loads(text)
    if not isinstance(content, kind):
        raise UserError(f"{path}: not a {'mapping' if kind is dict else 'list'}; {WAY_OUT}")
    return content


def _read_json_lines(path: Path, *, keys: Set[str]) -> list[Json] | None:
    """The JSON objects of a file, one a line with at least ``keys``; None where there is no such file."""
    text = _read_text(path)
    if text is None:
        return None
    lines = []
    for number, line in enumerate(text.rstrip("\n").split("\n") if text else [], start=1):
        with _parsing(f"{path}, line {number}", "JSON"):
            lines.append(json.loads(line))
        if not isinstance(lines[-1], dict) or not keys <= lines[-1].keys():
            raise UserError(f"{path}, line {number}: not an object with {', '.join(sorted(keys))}; {WAY_OUT}")
    return lines


def _read_text(path: Path) -> str | None:
    if not path.exists():
        return None
    with _parsing(path, "a text in UTF-8"):
        return path.read_text(encoding="utf-8")


@contextmanager
def _parsing(where: Path | str, form: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where}: not {form} ({' '.join(str(error).split())}); {WAY_OUT}") from error
