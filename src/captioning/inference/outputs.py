"""Where captions go. Each is stored as it comes, so that the next run resumes after any end."""

import glob
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from filelock import FileLock, Timeout

from captioning.errors import UserError, reason
from captioning.files import replacing
from captioning.inference.download import is_url

FORMATS = {".txt": "lines", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
SCHEMA = pa.schema({"path": pa.string(), "caption": pa.string(), "score": pa.float32()})
ROWS_AT_ONCE = 65_536
Shard = tuple[int, int]  # its index, and how many there are


class Row(TypedDict):
    """A caption; ``score`` is the mean log-probability (nats) of its tokens."""

    path: str  # or URL
    caption: str
    score: float | None


class Output:
    """Rows on standard output, as lines or JSON Lines; the others are kinds of it."""

    name = "standard output"  # for messages

    def __init__(self, form: str) -> None:
        self.form = form

    def open(self, *, overwrite: bool) -> AbstractContextManager[set[str]]:
        """Keep other processes out; yields the images that have a caption already. Raises UserError."""
        return nullcontext(set())

    def write(self, row: Row) -> None:
        """Store a caption, whatever happens next. Raises ValueError where this format can't hold the row."""
        sys.stdout.buffer.write(_encode(row) if self.form == "jsonl" else _line(row).encode())
        sys.stdout.buffer.flush()

    def finish(self) -> None:
        """Write the final file, after the last row."""


class Sidecars(Output):
    """A ``NAME.txt`` beside each image, as trainers read captions. Raises UserError where that can't be."""

    name = "a .txt beside each image"

    def __init__(self, images: Sequence[str]) -> None:
        super().__init__("lines")
        self._images: dict[Path, str] = {}
        for image in images:
            if is_url(image):
                raise UserError(f"{image}: there is no folder to write its caption into; take --output FILE")
            sidecar = Path(image).with_suffix(".txt")
            if (other := self._images.setdefault(sidecar, image)) != image:
                raise UserError(f"{image}: its caption would be in {sidecar}, as that of {other}; rename one")

    def open(self, *, overwrite: bool) -> AbstractContextManager[set[str]]:
        has_text = (image for file, image in self._images.items() if file.is_file() and file.stat().st_size)
        return nullcontext(set() if overwrite else set(has_text))

    def write(self, row: Row) -> None:
        with replacing(Path(row["path"]).with_suffix(".txt")) as part:
            part.write_text(f"{row['caption']}\n", encoding="utf-8")


class CaptionFile(Output):
    """Rows appended to JSON Lines: the file itself, or a hidden one beside it that other formats are written from.

    A shard has a part of its own, and skips what any others have.
    """

    def __init__(self, path: Path, form: str, shard: Shard | None = None) -> None:
        super().__init__(form)
        self.path = part_path(path, shard) if shard else path
        self.name = str(self.path)
        self._others: set[Path] = set()  # with captions that this one skips
        if shard:
            digits = "[0-9]" * 5
            pattern = f"{glob.escape(path.stem)}-{digits}-of-{digits}{glob.escape(path.suffix)}"
            hidden = (file.name[1:].removesuffix(".jsonl") for file in path.parent.glob(f".{pattern}.jsonl"))
            self._others = {path, *path.parent.glob(pattern), *map(path.with_name, hidden)} - {self.path}
        self._shard, self._overwrite = shard, False
        self._file: BinaryIO | None = None

    def _appended(self, path: Path) -> Path:
        return path if self.form == "jsonl" else path.with_name(f".{path.name}.jsonl")

    def _stored(self, path: Path) -> Iterator[Row]:
        """The rows of a file or, while it isn't written in its format, those appended so far."""
        source = next((file for file in (self._appended(path), path) if file.exists()), None)
        if source is not None:
            yield from _read(source, self.form if source == path else "jsonl")

    @contextmanager
    def open(self, *, overwrite: bool) -> Iterator[set[str]]:
        self._overwrite = overwrite
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), blocking=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(f"{self.path}: another process is writing captions there; wait for it") from error
        try:
            files = () if overwrite else (self.path, *self._others)
            yield {row["path"] for file in files for row in self._stored(file)}
        finally:
            if self._file is not None:
                self._file.close()
            Path(lock.lock_file).unlink(missing_ok=True)  # before it is released, or it might be another's by then
            lock.release()

    def write(self, row: Row) -> None:
        if self.form == "lines":
            _line(row)  # refuses what lines can't hold
        content = _encode(row)
        if self._file is None:  # only now, when there is a model that captions
            self._file = self._open_appended()
        self._file.write(content)
        self._file.flush()

    def _open_appended(self) -> BinaryIO:
        """The file to append to, with what was stored before and no half row at its end."""
        path = self._appended(self.path)
        if self._overwrite:
            for other in self._others:
                if self._shard and not other.stem.endswith(f"-of-{self._shard[1]:05}"):
                    other.unlink(missing_ok=True)
                    self._appended(other).unlink(missing_ok=True)
            return path.open("wb")
        if not path.exists():
            with replacing(path) as part, part.open("wb") as new:
                new.writelines(map(_encode, self._stored(self.path)))
        file: BinaryIO = path.open("r+b")
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))
        file.seek(0, 2)
        return file

    def finish(self) -> None:
        appended = self._appended(self.path)
        if self.form == "jsonl" or not appended.exists():
            return
        rows = _read(appended, "jsonl")
        with replacing(self.path) as part:
            if self.form == "lines":
                with part.open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(map(_line, rows))
            else:
                writer = pa.csv.CSVWriter if self.form == "csv" else pa.parquet.ParquetWriter
                with writer(part, SCHEMA) as table:
                    while some := list(islice(rows, ROWS_AT_ONCE)):
                        table.write_batch(pa.RecordBatch.from_pylist(some, schema=SCHEMA))
        appended.unlink()


def parse_shard(text: str) -> Shard:
    """The shard that a user means by ``0/4``."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard {text}: give I/N, from 0/4 to 3/4 for four processes")
    return int(index), int(count)


def part_path(path: Path, shard: Shard) -> Path:
    """The file of a shard, ``NAME-00000-of-00004.jsonl``."""
    return path.with_stem(f"{path.stem}-{shard[0]:05}-of-{shard[1]:05}")


def make_output(
    images: Sequence[str],
    *,
    file: Path | None,
    sidecars: bool = False,
    form: str | None = None,
    shard: Shard | None = None,
) -> Output:
    """Where a user wants the captions of ``images``, those of other shards among them. Raises UserError."""
    if sidecars:
        if file or form:
            raise UserError("--sidecars writes a .txt beside each image; leave it out, or --output and --format")
        return Sidecars(images)
    if form and form not in FORMATS.values():
        raise UserError(f"--format {form}: no such format; there are {', '.join(dict.fromkeys(FORMATS.values()))}")
    if file is None:
        if form in ("csv", "parquet"):
            raise UserError(f"--format {form}: not on standard output; name a file with --output")
        return Output(form or "lines")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UserError(f"--output {file}: name a file, in a folder that exists")
    chosen = form or FORMATS.get(file.suffix.lower())
    if chosen is None:
        raise UserError(f"--output {file}: name it {', '.join(f'*{suffix}' for suffix in FORMATS)}, or give --format")
    return CaptionFile(file, chosen, shard)


def _encode(row: Row) -> bytes:
    score = row["score"] if row["score"] is None else round(row["score"], 4)
    return f"{json.dumps({**row, 'score': score}, ensure_ascii=False)}\n".encode()


def _line(row: Row) -> str:
    if "\t" in row["path"] or len(row["path"].splitlines()) > 1:
        raise ValueError("a tab or line break in its name, which lines can't hold; .jsonl or .csv can")
    return f"{row['path']}\t{row['caption']}\n"


def _read(file: Path, form: str) -> Iterator[Row]:
    """The rows of a file, without one that was cut off at the end of JSON Lines. Raises UserError."""
    try:
        if form in ("jsonl", "lines"):
            with file.open("rb") as lines:
                for line in filter(bytes.strip, lines):
                    if form == "lines":
                        path, tab, caption = line.decode().rstrip("\r\n").partition("\t")
                        row: Any = {"path": path, "caption": caption, "score": None} if tab else None
                    elif line.endswith(b"\n"):
                        row = json.loads(line)
                    else:
                        return
                    match row:
                        case {"path": str(), "caption": str()}:
                            yield row
                        case _:
                            raise ValueError(f"not a caption: {line.decode().strip()}")
            return
        if form == "parquet":
            table = pa.parquet.read_table(file)
        else:
            parsing = pa.csv.ParseOptions(newlines_in_values=True)
            types = pa.csv.ConvertOptions(column_types=SCHEMA)
            table = pa.csv.read_csv(file, parse_options=parsing, convert_options=types)
        if table.column_names != SCHEMA.names:
            raise ValueError("other columns")
        for batch in table.to_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (ValueError, pa.ArrowException) as error:
        why = f"{file}: can't be read as captions ({reason(error)}); name another file, or --overwrite this one"
        raise UserError(why) from error
