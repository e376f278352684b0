"""A folder of pictures with their captions beside them, as rows."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from PIL import Image

from captioning.data.pictures import PictureSource, picture_formats
from captioning.data.rows import (
    CAPTION_COLUMNS,
    Problem,
    Rows,
    clean_captions,
    describe,
    make_rows,
    require_columns,
    split_name,
)
from captioning.errors import UserError

METADATA_FILES = ("metadata.jsonl", "metadata.csv")


class Entry(NamedTuple):
    """A line of a folder's metadata, or a caption file beside a picture."""

    where: str  # for messages
    file_name: str
    captions: Any
    split: Any = None


def read_folder(path: str, *, image_column: str | None = None, caption_column: str | None = None) -> Rows:
    """The pictures of a folder with ``metadata.jsonl`` or ``metadata.csv``, or a ``NAME.txt`` beside each picture.

    A metadata line names a picture in ``image_column`` (``file_name`` when not given) and holds its caption, or a list
    of them, in ``caption_column``; lines that name the same picture are put together. In a ``NAME.txt`` each line is a
    caption. An optional column ``split`` is respected. A row's id is the picture's path below the folder.

    Raises:
        UserError: no folder, no pictures, no captions, no such columns, or nothing left after bad rows.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.path={path}: no such folder; it must hold pictures and their captions")
    pictures = _pictures_below(folder)
    if not pictures:
        raise UserError(f"data.path={path}: no pictures in this folder (looked for {', '.join(_suffixes())})")
    metadata = next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)
    entries = _metadata(metadata, image_column, caption_column) if metadata else _sidecars(folder, pictures)
    return _rows_of(folder, pictures, entries)


def _pictures_below(folder: Path) -> dict[str, Path]:
    suffixes = _suffixes()
    return {
        _name_of(file.relative_to(folder)): file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in suffixes and file.is_file() and not file.name.startswith(".")
    }


def _name_of(path: Path | str) -> str:
    # One name on every system: Windows writes a\b.png, and macOS takes accented letters apart.
    return unicodedata.normalize("NFC", PureWindowsPath(path).as_posix())


def _suffixes() -> list[str]:
    formats = picture_formats()
    return sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)


def _metadata(file: Path, image_column: str | None, caption_column: str | None) -> Iterator[Entry]:
    image_column = image_column or "file_name"
    lines = _json_lines(file) if file.suffix == ".jsonl" else _csv_lines(file)
    for index, (number, line) in enumerate(lines):
        where = f"{file.name} line {number}"
        if index == 0 or caption_column is None:
            caption_column = caption_column or next((name for name in CAPTION_COLUMNS if name in line), "text")
            require_columns(where, list(line), image_column=image_column, caption_column=caption_column)
        yield Entry(where, str(line.get(image_column) or ""), line.get(caption_column), line.get("split"))


def _json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(_lines(file), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            json.dumps(line, ensure_ascii=False).encode()  # an escaped half of an emoji is JSON, but no text
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} line {number}: not JSON ({error}); a line looks like "
                            '{"file_name": "a.png", "text": "a caption"}') from error  # fmt: skip
        if not isinstance(line, dict):
            raise UserError(f"{file} line {number}: a JSON object is needed, got {text.strip()[:60]}")
        yield number, line


def _csv_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(_lines(file), strict=True)
    try:
        for line in reader:
            if None in line:  # DictReader keeps cells without a column there
                raise UserError(
                    f"{file} line {reader.line_num}: more cells than the first line has columns; a caption with a "
                    "comma needs double quotes around it"
                )
            yield reader.line_num, line
    except csv.Error as error:
        line_number = reader.reader.line_num  # where it stopped; reader.line_num is still where the last row ended
        raise UserError(f"{file} line {line_number}: not CSV ({error}); is a double quote left open?") from error


def _sidecars(folder: Path, pictures: dict[str, Path]) -> Iterator[Entry]:
    for name, picture in pictures.items():
        sidecar = picture.with_suffix(".txt")
        if sidecar.is_file():
            yield Entry(sidecar.name, name, [line for line in _lines(sidecar) if line.strip()] or "")
    known = {picture.with_suffix(".txt") for picture in pictures.values()}
    for file in sorted(set(folder.rglob("*.txt")) - known):
        yield Entry("no picture of that name", _name_of(file.relative_to(folder)), "")


def _lines(file: Path) -> io.StringIO:
    try:
        return io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=None)
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file} line {number}: not UTF-8 text; save the file in that encoding") from error


def _rows_of(folder: Path, pictures: dict[str, Path], entries: Iterable[Entry]) -> Rows:
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    problems: list[Problem] = []
    named = set()
    for entry in entries:
        name = _name_of(entry.file_name)
        named.add(name)
        if name not in pictures:
            problems.append(Problem("caption without a picture", f"{entry.file_name or '(no name)'} ({entry.where})"))
        elif not (texts := clean_captions(entry.captions, entry.where)):
            problems.append(Problem("empty caption", f"{name} ({entry.where})"))
        else:
            captions.setdefault(name, []).extend(texts)
            split = split_name(entry.split, entry.where)
            if splits.setdefault(name, split) != split:
                raise UserError(
                    f"{entry.where}: {name} has split {entry.split!r} here and {splits[name]!r} in an earlier line; "
                    "a picture is in one split"
                )
    problems += [Problem("picture without a caption", name) for name in pictures if name not in named]
    if not captions:
        raise UserError(
            f"data.path={folder}: {len(pictures)} pictures and no usable caption: {describe(problems)}. Captions "
            "go into metadata.jsonl, metadata.csv, or a NAME.txt beside each picture"
        )
    return make_rows(
        ids=list(captions),
        images=[PictureSource(bytes=None, path=str(pictures[name])) for name in captions],
        captions=list(captions.values()),
        splits=[splits[name] for name in captions],
        problems=problems,
    )
