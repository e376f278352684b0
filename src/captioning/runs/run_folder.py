"""What a run leaves behind in its folder. A file there is whole or absent."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from captioning.errors import UserError
from captioning.files import replacing

LOCK = ".lock"
PACKAGES = (
    "captioning",
    "torch",
    "lightning",
    "transformers",
    "datasets",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "tokenizers",
    "pillow",
    "numpy",
    "wandb",
)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; another process sees the whole file or none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON object a line; another process sees the whole file or none."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; another process sees the whole file or none."""
    with replacing(path) as part:
        # Half of a surrogate pair can stand in JSON, but not in UTF-8.
        part.write_text(text, encoding="utf-8", errors="replace")


def read_text(path: Path) -> str | None:
    """A file's text; None where there is no such file.

    Raises:
        UserError: the file isn't UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8; remove the file to do without it") from error


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON or YAML file; None where there is no such file.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    content: dict[str, Any] | None = _read(path, dict, "mapping")
    return content


def read_list(path: Path) -> list[Any] | None:
    """The list in a JSON or YAML file; None, and errors, as of :func:`read_mapping`."""
    content: list[Any] | None = _read(path, list, "list")
    return content


def _read(path: Path, kind: type, name: str) -> Any:
    text = read_text(path)
    if text is None:
        return None
    form, load = ("YAML", _load_yaml) if path.suffix == ".yaml" else ("JSON", json.loads)
    try:
        content = load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{path}: not {form} ({message}); remove the file to do without it") from error
    if not isinstance(content, kind):
        raise UserError(f"{path}: not a {name}; remove the file to do without it")
    return content


def _load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # as safe, and ten times as fast


def read_json_lines(path: Path, *, keys: Set[str]) -> list[dict[str, Any]] | None:
    """The JSON objects of a file, one a line; None where there is no such file.

    Raises:
        UserError: a line isn't an object with at least ``keys``.
    """
    text = read_text(path)
    if text is None:
        return None
    lines = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); remove the file to do without it") from error
        if not isinstance(lines[-1], dict) or not keys <= lines[-1].keys():
            raise UserError(
                f"{path}, line {number}: not an object with {', '.join(sorted(keys))}; remove the file to do without it"
            )
    return lines


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a run folder for oneself; made if it isn't there, and taken away again if it stays empty.

    Raises:
        UserError: another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{folder}: another run is at work in this folder; wait for it, or take another one") from error
    try:
        yield
    finally:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder)  # before the lock is let go, or it might be another's by then
        lock.release()


def write_model(folder: Path, *, network: Any, processor: Any) -> None:
    """Save a Hugging Face folder that ``AutoProcessor`` and ``AutoModelForCausalLM`` load: safetensors, no pickle."""
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


def environment(*, data_fingerprint: str, evaluated_split: str, devices: str) -> dict[str, Any]:
    """What it takes to tell whether two runs had the same ground: versions, code, machine and data."""
    import torch  # here, because writing a file of JSON takes no second to import

    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpu_count": os.cpu_count(),
        "devices": devices,
        "cuda": torch.version.cuda,
        "data_fingerprint": data_fingerprint,
        "evaluated_split": evaluated_split,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """The commit that the code is at and whether it was changed since; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain")}
    except (OSError, subprocess.SubprocessError):
        return None
