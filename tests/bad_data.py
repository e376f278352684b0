"""What goes wrong in data that people collect: one bad thing at a time, in a data set that is good otherwise.

Each kind is a function that lays out, below an empty folder, a data set of twelve good images with the one bad thing
in it. Decorators say what must come of it: ``harmless`` (it is read, and right), ``bad`` (it alone is left out, and
named) or ``hopeless`` (nothing can be read). Outside of the data set lie secrets that nothing may open.
"""

import csv
import io
import json
import os
import random
import socket
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from PIL import Image

NAMES = ("kite", "boat", "lamp", "fern", "door", "drum", "coin", "leaf", "sock", "bell", "moth", "pear")
ODD = 99  # the seed of the image that the bad thing happens to
SECRET = 77
ODD_CAPTION = "a drawing of something odd"
SECRET_CAPTION = "a secret that nobody may read"


@lru_cache
def image(seed: int) -> Image.Image:
    """36 colored fields, unlike those of any other seed."""
    fields = Image.frombytes("RGB", (6, 6), random.Random(seed).randbytes(108))
    return fields.resize((48, 48), Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@lru_cache
def png(seed: int) -> bytes:
    return encoded(image(seed))


def caption_of(name: str) -> str:
    return f"a drawing of a {name}"


GOOD = {caption_of(name): seed for seed, name in enumerate(NAMES)}  # each good caption, and the seed of its image
FILES = {f"{name}.png": caption_of(name) for name in NAMES}


class Planted(NamedTuple):
    """A data set with one bad thing in it."""

    path: Path | str  # what data.path is set to
    name: str = ""  # must be in the report; empty where nothing is left out
    caption: str = ODD_CAPTION  # of the row that the thing is in, where that can be read
    image: Image.Image = image(ODD)  # of the same row
    split: str | None = None  # that the data give the same row
    settings: Mapping[str, object] = MappingProxyType({})  # further ones of the data module


@dataclass(frozen=True)
class Kind:
    """A kind of bad thing, and what must come of it."""

    plant: Callable[[Path], Planted]
    outcome: str  # harmless, bad or hopeless
    says: str = ""  # what the report says of it; empty for a harmless thing that nothing is said of
    skip: bool = False  # it can't be made here

    def __call__(self, root: Path) -> Planted:
        """Lay out the data set in ``root/data``, with secrets in ``root/outside``."""
        for folder in (root / "data", root / "outside"):
            folder.mkdir(parents=True)
        (root / "outside/secret.png").write_bytes(png(SECRET))
        (root / "outside/secret.txt").write_text(SECRET_CAPTION)
        return self.plant(root)


KINDS: dict[str, Kind] = {}


def _register(outcome: str, says: str = "", skip: bool = False) -> Callable[[Any], Any]:
    def registered(plant: Callable[[Path], Planted]) -> Callable[[Path], Planted]:
        name = plant.__name__.replace("_", " ").strip()
        assert name not in KINDS
        KINDS[name] = Kind(plant, outcome, says, skip)
        return plant

    return registered


def harmless(*, notice: str = "") -> Callable[[Any], Any]:
    """Its row is read right, like all others; ``notice`` says what is unusual about it."""
    return _register("harmless", notice)


def bad(says: str, *, skip: bool = False) -> Callable[[Any], Any]:
    """It is left out and named, with words that hold ``says``; all good rows are kept."""
    return _register("bad", says, skip)


def hopeless(says: str) -> Callable[[Any], Any]:
    """The whole source is refused in a line that holds ``says``."""
    return _register("hopeless", says)


# ---------------------------------------------------------------- good data sets to put a bad thing into


def line(file_name: object = "odd.png", text: object = ODD_CAPTION, **more: object) -> dict[str, object]:
    return {"file_name": file_name, "text": text, **more}


GOOD_LINES = [line(name, caption) for name, caption in FILES.items()]


def as_bytes(each: object) -> bytes:
    return each if isinstance(each, bytes) else json.dumps(each).encode()


def files(root: Path, more: dict[str, bytes]) -> Path:
    """The good images, and further files by name."""
    contents = {f"{name}.png": png(seed) for seed, name in enumerate(NAMES)} | more
    for name, content in contents.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root / "data"


def in_metadata(root: Path, *lines: object, **more: bytes) -> Path:
    """A folder with metadata.jsonl: the good lines, and these between them."""
    everything = [*GOOD_LINES[:7], *lines, *GOOD_LINES[7:]]
    return files(root, {"metadata.jsonl": b"".join(as_bytes(each) + b"\n" for each in everything)} | more)


def as_image(root: Path, name: str, content: bytes) -> Planted:
    """A folder with metadata.jsonl, and one more image in it."""
    return Planted(in_metadata(root, line(name), **{name: content}), name)


def in_csv(root: Path, *lines: str, start: str = "file_name,text") -> Path:
    """A folder with metadata.csv: the good lines, and these between them."""
    good = [f"{name},{caption}" for name, caption in FILES.items()]
    text = "\n".join([start, *good[:7], *lines, *good[7:]]) + "\n"
    return files(root, {"metadata.csv": text.encode(), "odd.png": png(ODD)})


def beside(root: Path, more: dict[str, bytes]) -> Path:
    """A folder with a text file beside each image, and further files."""
    return files(root, {f"{name}.txt": caption_of(name).encode() for name in NAMES} | more)


def in_coco(root: Path, images: Sequence[object] = (), annotations: Sequence[object] = ()) -> Path:
    """COCO's caption annotations, and these beside them."""
    content = {
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(NAMES)] + list(images),
        "annotations": [
            {"id": 100 + number, "image_id": number, "caption": caption_of(name)} for number, name in enumerate(NAMES)
        ]
        + list(annotations),
    }
    return files(root, {"captions.json": json.dumps(content).encode(), "odd.png": png(ODD)}) / "captions.json"


def in_karpathy(root: Path, *images: object) -> Path:
    """Karpathy's split of captioned images, and these beside them."""
    good = [
        {"filename": f"{name}.png", "split": "train", "sentences": [{"raw": caption_of(name)}]}
        if number < 8
        else {"filename": f"{name}.png", "split": "val" if number < 10 else "test", "sentences": [{"raw": caption}]}
        for number, (name, caption) in enumerate(zip(NAMES, GOOD, strict=True))
    ]
    content = json.dumps({"dataset": "drawings", "images": good[:7] + list(images) + good[7:]})
    return files(root, {"dataset.json": content.encode(), "odd.png": png(ODD)}) / "dataset.json"


def write_table(path: Path, rows: Sequence[dict[str, Any]], features: Mapping[str, object] | None = None) -> None:
    """A Parquet file; ``features`` are what `datasets` writes of its columns."""
    import pyarrow
    import pyarrow.parquet

    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)).replace_schema_metadata(metadata), path)


def within(seed: int, caption: object, **more: object) -> dict[str, object]:
    """A row of a table that holds its image."""
    return {"image": {"bytes": png(seed), "path": None}, "text": caption, **more}


def in_table(root: Path, *rows: dict[str, object], name: str = "images.parquet") -> Path:
    """A Parquet table with the images in it: the good rows, and these between them."""
    good = [within(seed, caption) for caption, seed in GOOD.items()]
    write_table(root / "data" / name, [*good[:7], *rows, *good[7:]])
    return root / "data" / name


def with_latin_text(path: Path) -> Path:
    """Spoil the odd caption of a Parquet file, as programs do that write other encodings as text."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    captions = table.column("text").to_pylist()
    encoded = [caption.encode("latin-1") for caption in captions]
    column = pyarrow.array(encoded, pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(table.set_column(table.column_names.index("text"), "text", column), path)
    return path


def damage(path: Path) -> Path:
    """Spoil what a Parquet file holds, but neither its beginning nor its end, which says what it holds."""
    content = path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:4] + b"\xff" * (end - 4) + content[end:])
    return path


class Member(NamedTuple):
    """A file in a tar archive."""

    name: str
    content: bytes = b""
    link: str | None = None


def good_members(names: Sequence[str] = NAMES) -> list[Member]:
    return [
        member
        for name in names
        for member in (Member(f"{name}.png", png(NAMES.index(name))), Member(f"{name}.txt", caption_of(name).encode()))
    ]


def tarred(members: Sequence[Member]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            if member.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, member.link
            info.size = len(member.content)
            archive.addfile(info, io.BytesIO(member.content))
    return file.getvalue()


def in_shard(root: Path, *members: Member) -> Path:
    """A tar shard: the good samples, and these members between them."""
    everything = [*good_members(NAMES[:7]), *members, *good_members(NAMES[7:])]
    (root / "data/shard-00.tar").write_bytes(tarred(everything))
    return root / "data/shard-00.tar"


def in_last_shard(root: Path, content: bytes) -> Path:
    """Two tar shards, the second of which ends in ``content``."""
    (root / "data/shard-00.tar").write_bytes(tarred(good_members(NAMES[:7])))
    whole = tarred(good_members(NAMES[7:]))
    end = len(whole.rstrip(b"\0"))
    (root / "data/shard-01.tar").write_bytes(whole[: -(-end // 512) * 512] + content)
    return root / "data"


# ---------------------------------------------------------------- images


@bad("can't be read")
def a_truncated_jpeg(root: Path) -> Planted:
    return as_image(root, "odd.jpg", encoded(image(ODD), "JPEG")[:-300])


@bad("can't be read")
def a_truncated_png(root: Path) -> Planted:
    return as_image(root, "odd.png", encoded(Image.effect_noise((48, 48), 90))[:-300])


@bad("not an image")
def a_web_page_named_jpg(root: Path) -> Planted:
    return as_image(root, "odd.jpg", b"<!DOCTYPE html><html><title>404 Not Found</title></html>")


@bad("empty file")
def zero_bytes(root: Path) -> Planted:
    return as_image(root, "odd.png", b"")


@bad("can't be read")
def a_decompression_bomb(root: Path) -> Planted:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return as_image(root, "odd.png", b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


@bad("not an image")
def a_vector_graphic(root: Path) -> Planted:
    return as_image(root, "odd.png", b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>')


@bad("not an image")
def a_drawing_program(root: Path) -> Planted:
    return as_image(root, "odd.png", encoded(image(ODD), "EPS"))


@bad("not an image")
def a_pointer_that_git_lfs_left(root: Path) -> Planted:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    return as_image(root, "odd.png", pointer)


@harmless(notice="a side under 32 pixels")
def a_image_of_one_pixel(root: Path) -> Planted:
    dot = Image.new("RGB", (1, 1), "teal")
    return as_image(root, "odd.png", encoded(dot))._replace(image=dot)


@harmless(notice="times as long as wide")
def a_image_of_20000_by_10(root: Path) -> Planted:
    strip = image(ODD).resize((20_000, 10), Image.Resampling.NEAREST)
    return as_image(root, "odd.png", encoded(strip))._replace(image=strip)


@harmless(notice="CMYK")
def a_cmyk_jpeg(root: Path) -> Planted:
    return as_image(root, "odd.jpg", encoded(image(ODD).convert("CMYK"), "JPEG", quality=95))


@harmless(notice="I;16")
def a_png_of_16_bit_grey(root: Path) -> Planted:
    gray = image(ODD).convert("L")
    deep = Image.frombytes("I;16", gray.size, b"".join(bytes((level, level)) for level in gray.tobytes()))
    return as_image(root, "odd.png", encoded(deep))._replace(image=gray.convert("RGB"))


@harmless()
def a_jpeg_with_broken_exif(root: Path) -> Planted:
    tags = Image.Exif()
    tags[0x010E] = "a description"
    content = encoded(image(ODD), "JPEG", quality=95, exif=tags)
    first_directory = content.index(b"Exif\0\0") + 10
    content = content[:first_directory] + b"\x7f\xff\xff\xff" + content[first_directory + 4 :]
    return as_image(root, "odd.jpg", content)


@harmless()
def a_palette_with_transparency(root: Path) -> Planted:
    palette = image(ODD).quantize(64)
    corner = palette.getpixel((0, 0))
    seen = palette.convert("RGB")
    seen.paste("white", mask=palette.point([255 * (index == corner) for index in range(256)], "L"))
    return as_image(root, "odd.png", encoded(palette, transparency=corner))._replace(image=seen)


@harmless(notice="animated")
def an_animated_png(root: Path) -> Planted:
    return as_image(root, "odd.png", encoded(image(ODD), save_all=True, append_images=[image(98)]))


@harmless(notice="animated")
def an_animated_gif(root: Path) -> Planted:
    return as_image(root, "odd.gif", encoded(image(ODD), "GIF", save_all=True, append_images=[image(98)]))


@harmless()
def a_png_named_jpg(root: Path) -> Planted:
    return as_image(root, "odd.jpg", png(ODD))


@harmless(notice="turned upright")
def a_image_that_lies_on_its_side(root: Path) -> Planted:
    tags = Image.Exif()
    tags[0x0112] = 6  # to be turned right by a quarter
    turned = image(ODD).transpose(Image.Transpose.ROTATE_90)
    return as_image(root, "odd.jpg", encoded(turned, "JPEG", quality=95, exif=tags))


# ---------------------------------------------------------------- names, links, and what is no file


@bad("")
def a_missing_file(root: Path) -> Planted:
    return Planted(in_metadata(root, line("gone.png")), "gone.png")


@bad("")
def a_directory_named_png(root: Path) -> Planted:
    path = in_metadata(root, line("odd.png"))
    (path / "odd.png").mkdir()
    return Planted(path, "odd.png")


@bad("")
def a_directory_named_png_beside_a_text_file(root: Path) -> Planted:
    path = beside(root, {"odd.txt": ODD_CAPTION.encode()})
    (path / "odd.png").mkdir()
    return Planted(path, "odd.txt")


@bad("")
def a_image_named_by_a_list(root: Path) -> Planted:
    return Planted(in_metadata(root, line(["odd.png", "kite.png"], ["one caption"])), "line 8")


@bad("")
def a_file_name_that_is_a_number(root: Path) -> Planted:
    return Planted(in_metadata(root, line(12345)), "line 8")


@bad("")
def an_embedded_nul_in_a_file_name(root: Path) -> Planted:
    return Planted(in_metadata(root, line("odd\0.png"), **{"odd.png": png(ODD)}), "line 8")


@bad("")
def a_file_name_of_5000_characters(root: Path) -> Planted:
    return Planted(in_metadata(root, line("o" * 5000 + ".png")), "ooooooooo")


@harmless()
def a_name_in_unicode_with_spaces(root: Path) -> Planted:
    composed, apart = "Fjällräven på ön 狐 🦊.png", "Fja\u0308llra\u0308ven pa\u030a o\u0308n 狐 🦊.png"
    assert composed != apart
    return Planted(in_metadata(root, line(composed), **{apart: png(ODD)}))


@bad("", skip=sys.platform != "linux")
def a_file_name_that_is_not_utf_8(root: Path) -> Planted:
    path = beside(root, {})
    for suffix, content in ((".png", png(ODD)), (".txt", ODD_CAPTION.encode())):
        Path(os.fsdecode(bytes(path) + b"/odd-caf\xe9" + suffix.encode())).write_bytes(content)
    return Planted(path, "odd-caf")


@bad("")
def a_web_address_that_is_none(root: Path) -> Planted:
    return Planted(in_metadata(root, line("http://[broken/odd.png")), "line 8")


@bad("")
def a_file_name_with_a_line_break(root: Path) -> Planted:
    return Planted(in_metadata(root, line("gone\nor not.png")), "gone")


@harmless()
def a_name_with_backslashes(root: Path) -> Planted:
    return Planted(in_metadata(root, line(r"in\odd.png"), **{"in/odd.png": png(ODD)}))


@bad("")
def a_link_that_leads_to_itself(root: Path) -> Planted:
    path = in_metadata(root, line("odd.png"))
    (path / "odd.png").symlink_to("even.png")
    (path / "even.png").symlink_to("odd.png")
    return Planted(path, "odd.png")


@bad("")
def a_link_that_leads_to_itself_beside_a_text_file(root: Path) -> Planted:
    path = beside(root, {"odd.txt": ODD_CAPTION.encode()})
    (path / "odd.png").symlink_to("odd.png")
    return Planted(path, "odd.txt")


@harmless()
def a_folder_that_holds_a_link_to_itself(root: Path) -> Planted:
    path = beside(root, {"odd.png": png(ODD), "odd.txt": ODD_CAPTION.encode()})
    (path / "again").symlink_to(path)
    return Planted(path)


@harmless()
def a_data_folder_that_is_a_link(root: Path) -> Planted:
    path = in_metadata(root, line(), **{"odd.png": png(ODD)})
    (root / "link").symlink_to(path)
    return Planted(root / "link")


@harmless()
def a_link_within_the_folder(root: Path) -> Planted:
    path = in_metadata(root, line(), **{".annex/objects/12345": png(ODD)})
    (path / "odd.png").symlink_to(".annex/objects/12345")
    return Planted(path)


@harmless()
def what_a_mac_leaves_in_folders(root: Path) -> Planted:
    left = {"._kite.png": b"\0\5\x16\7", "._kite.txt": b"\0\5\x16\7\xff", ".DS_Store": b"\0\0\0\1Bud1"}
    return Planted(beside(root, {"ODD.PNG": png(ODD), "ODD.txt": ODD_CAPTION.encode()} | left))


@bad("outside of the data folder")
def a_link_out_of_the_folder(root: Path) -> Planted:
    path = in_metadata(root, line("odd.png"))
    (path / "odd.png").symlink_to("../outside/secret.png")
    return Planted(path, "odd.png")


@bad("outside of the data folder")
def a_link_out_of_the_folder_beside_a_text_file(root: Path) -> Planted:
    path = beside(root, {"odd.txt": ODD_CAPTION.encode()})
    (path / "odd.png").symlink_to("../outside/secret.png")
    return Planted(path, "odd.png")


@bad("outside of the data folder")
def a_text_file_that_links_out_of_the_folder(root: Path) -> Planted:
    path = beside(root, {"odd.png": png(ODD)})
    (path / "odd.txt").symlink_to("../outside/secret.txt")
    return Planted(path, "odd")


@bad("outside of the data folder")
def a_linked_folder_out_of_the_folder(root: Path) -> Planted:
    path = in_metadata(root, line("album/secret.png"))
    (path / "album").symlink_to("../outside")
    return Planted(path, "album/secret.png")


@bad("outside of the data folder")
def a_linked_folder_out_of_the_folder_that_no_line_names(root: Path) -> Planted:
    path = beside(root, {})
    (path / "album").symlink_to("../outside")
    return Planted(path, "album")


@bad("outside of the data folder")
def a_link_out_of_a_folder_of_snapshots(root: Path) -> Planted:
    """Such as the Hub's cache has, whose links lead out of them by design; this is another folder of that name."""
    planted = a_link_out_of_the_folder(root)
    (root / "snapshots").mkdir()
    (root / "data").rename(root / "snapshots/data")
    (root / "snapshots/data/odd.png").unlink()
    (root / "snapshots/data/odd.png").symlink_to(root / "outside/secret.png")
    return planted._replace(path=root / "snapshots/data")


@harmless()
def a_snapshot_in_the_cache_of_the_hub(root: Path) -> Planted:
    path = in_metadata(root, line(), **{"odd.png": png(ODD)})
    repository = root / "hub/datasets--somebody--drawings"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots/0123456789abcdef"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(path.iterdir()):
        file.rename(repository / f"blobs/{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return Planted(snapshot)


@hopeless("outside of")
def metadata_that_links_out_of_the_folder(root: Path) -> Planted:
    path = in_metadata(root)
    (path / "metadata.jsonl").rename(root / "outside/metadata.jsonl")
    (path / "metadata.jsonl").symlink_to("../outside/metadata.jsonl")
    return Planted(path, "metadata.jsonl")


@bad("outside of the data folder")
def a_path_that_climbs_out(root: Path) -> Planted:
    return Planted(in_metadata(root, line("../outside/secret.png")), "../outside/secret.png")


@bad("outside of the data folder")
def a_path_that_climbs_out_by_backslashes(root: Path) -> Planted:
    return Planted(in_metadata(root, line(r"..\outside\secret.png")), "secret.png")


@bad("outside of the data folder")
def an_absolute_path_outside(root: Path) -> Planted:
    name = str(root / "outside/secret.png")
    return Planted(in_metadata(root, line(name)), name)


@bad("outside of the data folder")
def a_coco_image_that_climbs_out(root: Path) -> Planted:
    image = {"id": 50, "file_name": "../outside/secret.png"}
    return Planted(in_coco(root, [image], [annotation(50)]), "../outside/secret.png")


@bad("outside of the data folder")
def a_image_of_a_table_that_climbs_out(root: Path) -> Planted:
    climbing = {"image": {"bytes": None, "path": "../outside/secret.png"}, "text": ODD_CAPTION}
    return Planted(in_table(root, climbing), "../outside/secret.png")


@bad("can't be read", skip=os.geteuid() == 0)
def a_file_without_permission_to_read(root: Path) -> Planted:
    planted = as_image(root, "odd.png", png(ODD))
    (root / "data/odd.png").chmod(0)
    return planted


@bad("")
def a_pipe_named_png(root: Path) -> Planted:
    path = in_metadata(root, line("odd.png"))
    os.mkfifo(path / "odd.png")
    return Planted(path, "odd.png")


@bad("")
def a_pipe_named_png_beside_a_text_file(root: Path) -> Planted:
    path = beside(root, {"odd.txt": ODD_CAPTION.encode()})
    os.mkfifo(path / "odd.png")
    return Planted(path, "odd")


@bad("")
def a_pipe_named_txt(root: Path) -> Planted:
    path = beside(root, {"odd.png": png(ODD)})
    os.mkfifo(path / "odd.txt")
    return Planted(path, "odd")


@bad("")
def a_socket_named_png(root: Path) -> Planted:
    path = in_metadata(root, line("odd.png"))
    before = Path.cwd()
    os.chdir(path)  # a socket's path is at most a hundred characters long
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("odd.png")
    finally:
        os.chdir(before)
    return Planted(path, "odd.png")


# ---------------------------------------------------------------- captions and lines


@bad("caption")
def a_null_caption(root: Path) -> Planted:
    return Planted(in_metadata(root, line(text=None), **{"odd.png": png(ODD)}), "odd.png")


@bad("caption")
def an_empty_list_of_captions(root: Path) -> Planted:
    return Planted(in_metadata(root, line(text=[]), **{"odd.png": png(ODD)}), "odd.png")


@bad("caption")
def a_caption_of_spaces(root: Path) -> Planted:
    return Planted(in_metadata(root, line(text=" \t\u00a0\n "), **{"odd.png": png(ODD)}), "odd.png")


@bad("caption")
def a_caption_that_is_a_number(root: Path) -> Planted:
    return Planted(in_metadata(root, line(text=3), **{"odd.png": png(ODD)}), "line 8")


@bad("caption")
def a_caption_that_is_a_dict(root: Path) -> Planted:
    return Planted(in_metadata(root, line(text={"en": ODD_CAPTION}), **{"odd.png": png(ODD)}), "line 8")


@bad("caption")
def a_list_of_captions_that_are_none(root: Path) -> Planted:
    return Planted(in_metadata(root, line(text=[3, {}]), **{"odd.png": png(ODD)}), "line 8")


@bad("caption")
def a_line_without_a_caption(root: Path) -> Planted:
    return Planted(in_metadata(root, {"file_name": "odd.png"}, **{"odd.png": png(ODD)}), "odd.png")


@bad("caption")
def a_image_that_no_line_names(root: Path) -> Planted:
    return Planted(in_metadata(root, **{"odd.png": png(ODD)}), "odd.png")


@harmless(notice="caption of over 1,000 characters")
def a_caption_of_100000_characters(root: Path) -> Planted:
    long = ODD_CAPTION + " and more" * 11_000
    return Planted(in_metadata(root, line(text=long), **{"odd.png": png(ODD)}), "odd.png", caption=long)


@bad("NUL")
def an_embedded_nul_in_a_caption(root: Path) -> Planted:
    return Planted(in_metadata(root, line(text="an odd\0 drawing"), **{"odd.png": png(ODD)}), "line 8")


@harmless(notice="the same caption more than once")
def the_same_line_twice(root: Path) -> Planted:
    return Planted(in_metadata(root, line(), line(), **{"odd.png": png(ODD)}), "odd.png")


@bad("split")
def the_same_image_with_two_splits(root: Path) -> Planted:
    lines = (line(split="train"), line(split="test"))
    return Planted(in_metadata(root, *lines, **{"odd.png": png(ODD)}), "odd.png")


@bad("split")
def a_split_of_no_known_name(root: Path) -> Planted:
    return Planted(in_metadata(root, line(split="tset"), **{"odd.png": png(ODD)}), "line 8")


@bad("split")
def a_split_that_is_a_dict(root: Path) -> Planted:
    return Planted(in_metadata(root, line(split={"name": "test"}), **{"odd.png": png(ODD)}), "line 8")


@harmless()
def a_byte_order_mark(root: Path) -> Planted:
    path = in_csv(root, f"odd.png,{ODD_CAPTION}")
    file = path / "metadata.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    return Planted(path)


@harmless()
def a_file_named_as_if_datasets_had_saved_it(root: Path) -> Planted:
    return Planted(in_metadata(root, line(), **{"odd.png": png(ODD), "state.json": b"{}"}))


@harmless()
def line_ends_of_windows(root: Path) -> Planted:
    path = in_metadata(root, line(), **{"odd.png": png(ODD)})
    file = path / "metadata.jsonl"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    return Planted(path)


@bad("JSON")
def a_line_cut_in_half(root: Path) -> Planted:
    return Planted(in_metadata(root, as_bytes(line())[:-9], **{"odd.png": png(ODD)}), "metadata.jsonl line 8")


@bad("JSON")
def a_line_that_is_no_object(root: Path) -> Planted:
    return Planted(in_metadata(root, ["odd.png", ODD_CAPTION], **{"odd.png": png(ODD)}), "metadata.jsonl line 8")


@bad("JSON")
def an_extremely_deep_line(root: Path) -> Planted:
    deep = b'{"file_name": "odd.png", "text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return Planted(in_metadata(root, deep, **{"odd.png": png(ODD)}), "metadata.jsonl line 8")


@bad("")
def half_an_emoji_in_a_caption(root: Path) -> Planted:
    half = rb'{"file_name": "odd.png", "text": "a fox \ud83e"}'
    return Planted(in_metadata(root, half, **{"odd.png": png(ODD)}), "metadata.jsonl line 8")


@bad("UTF-8")
def a_line_that_is_not_utf_8(root: Path) -> Planted:
    latin = '{"file_name": "odd.png", "text": "a café"}'.encode("latin-1")
    return Planted(in_metadata(root, latin, **{"odd.png": png(ODD)}), "metadata.jsonl line 8")


@bad("UTF-8")
def a_line_of_a_csv_that_is_not_utf_8(root: Path) -> Planted:
    path = in_csv(root, "odd.png,a café")
    file = path / "metadata.csv"
    file.write_bytes(file.read_bytes().decode().encode("latin-1"))
    return Planted(path, "metadata.csv line 9")


@bad("UTF-8")
def a_text_file_that_is_not_utf_8(root: Path) -> Planted:
    return Planted(beside(root, {"odd.png": png(ODD), "odd.txt": "a café".encode("latin-1")}), "odd.txt")


@harmless(notice="caption of over 1,000 characters")
def a_cell_of_more_than_128_kb(root: Path) -> Planted:
    long = ODD_CAPTION + " and more" * 20_000
    return Planted(in_csv(root, f"odd.png,{long}"), "odd.png", caption=long)


@bad("CSV")
def an_open_quote(root: Path) -> Planted:
    return Planted(in_csv(root, f'odd.png,"{ODD_CAPTION}'), "metadata.csv line 9")


@bad("CSV")
def an_open_quote_above_lines_with_quotes(root: Path) -> Planted:
    path = in_csv(root, f'odd.png,"{ODD_CAPTION}')
    file = path / "metadata.csv"
    for caption in GOOD:
        file.write_text(file.read_text().replace(f",{caption}\n", f',"{caption}"\n'))
    return Planted(path, "metadata.csv line 9")


@bad("cells")
def a_csv_line_with_too_many_cells(root: Path) -> Planted:
    return Planted(in_csv(root, "odd.png,red, and a cat"), "metadata.csv line 9")


@bad("caption without an image")
def a_text_file_beside_no_image(root: Path) -> Planted:
    return Planted(beside(root, {"odd.txt": ODD_CAPTION.encode()}), "odd.txt")


@harmless()
def a_text_file_named_in_capitals(root: Path) -> Planted:
    return Planted(beside(root, {"ODD.PNG": png(ODD), "ODD.TXT": ODD_CAPTION.encode()}))


@bad("caption")
def an_empty_text_file(root: Path) -> Planted:
    return Planted(beside(root, {"odd.png": png(ODD), "odd.txt": b""}), "odd.png")


@bad("caption")
def a_csv_line_with_too_few_cells(root: Path) -> Planted:
    return Planted(in_csv(root, "odd.png"), "odd.png")


@hopeless("data.image_column")
def a_csv_with_semicolons(root: Path) -> Planted:
    path = in_csv(root)
    file = path / "metadata.csv"
    file.write_bytes(file.read_bytes().replace(b",", b";"))
    return Planted(path, "metadata.csv")


@hopeless("data.image_column")
def column_names_with_line_breaks(root: Path) -> Planted:
    lines = [{"file\nname": name, "text": caption} for name, caption in FILES.items()]
    return Planted(files(root, {"metadata.jsonl": b"\n".join(map(as_bytes, lines))}), "metadata.jsonl")


@hopeless("CSV")
def a_header_with_an_open_quote(root: Path) -> Planted:
    return Planted(in_csv(root, start='file_name,"text'), "metadata.csv")


@hopeless("image without a caption")
def metadata_without_a_line(root: Path) -> Planted:
    path = files(root, {"metadata.csv": b""})
    return Planted(path, str(path))


@hopeless("no captions")
def a_folder_without_a_file(root: Path) -> Planted:
    return Planted(root / "data", str(root / "data"))


@hopeless("no file of captions")
def a_image_instead_of_a_data_set(root: Path) -> Planted:
    return Planted(files(root, {}) / "kite.png", "kite.png")


@hopeless("UTF-8")
def metadata_in_utf_16(root: Path) -> Planted:
    path = in_csv(root)
    file = path / "metadata.csv"
    file.write_bytes(file.read_bytes().decode().encode("utf-16"))
    return Planted(path, "metadata.csv")


# ---------------------------------------------------------------- annotation files


def annotation(image_id: object, caption: object = ODD_CAPTION) -> dict[str, object]:
    return {"id": 7777, "image_id": image_id, "caption": caption}


ODD_IMAGE = {"id": 50, "file_name": "odd.png"}


@bad("caption without an image")
def a_coco_annotation_of_no_image(root: Path) -> Planted:
    return Planted(in_coco(root, annotations=[annotation(4321)]), "4321")


@bad("image without a caption")
def a_coco_image_without_annotations(root: Path) -> Planted:
    return Planted(in_coco(root, [ODD_IMAGE]), "odd.png")


@bad("caption")
def a_coco_caption_that_is_null(root: Path) -> Planted:
    return Planted(in_coco(root, [ODD_IMAGE], [annotation(50, None)]), "odd.png")


@bad("")
def a_coco_image_without_a_name(root: Path) -> Planted:
    return Planted(in_coco(root, [{"id": 5050}], [annotation(5050)]), "images[12]")


@bad("")
def a_coco_annotation_that_is_no_object(root: Path) -> Planted:
    return Planted(in_coco(root, annotations=["a caption alone"]), "captions.json")


@bad("caption without an image")
def a_coco_annotation_whose_image_id_is_a_list(root: Path) -> Planted:
    return Planted(in_coco(root, annotations=[annotation([4321])]), "4321")


@bad("")
def two_coco_images_with_one_id(root: Path) -> Planted:
    again = {"id": 50, "file_name": "again.png"}
    path = in_coco(root, [ODD_IMAGE, again], [annotation(50)])
    (path.parent / "again.png").write_bytes(png(98))
    return Planted(path, "50")


@hopeless("JSON")
def a_coco_file_cut_in_half(root: Path) -> Planted:
    path = in_coco(root)
    path.write_bytes(path.read_bytes()[:-500])
    return Planted(path, "captions.json")


@hopeless("")
def an_annotation_file_of_no_known_form(root: Path) -> Planted:
    return Planted(files(root, {"captions.json": b'{"images": 3}'}) / "captions.json", "captions.json")


@hopeless("JSON")
def an_annotation_file_that_is_extremely_deep(root: Path) -> Planted:
    return Planted(files(root, {"captions.json": b"[" * 100_000}) / "captions.json", "captions.json")


def karpathy_image(**more: object) -> dict[str, object]:
    return {"filename": "odd.png", "split": "train", "sentences": [{"raw": ODD_CAPTION}], **more}


@harmless()
def lists_of_unequal_length(root: Path) -> Planted:
    return Planted(in_karpathy(root, karpathy_image(sentids=[1, 2, 3])), split="train")


@bad("caption")
def a_karpathy_image_without_sentences(root: Path) -> Planted:
    return Planted(in_karpathy(root, karpathy_image(sentences=[])), "odd.png")


@bad("split")
def a_karpathy_split_of_no_known_name(root: Path) -> Planted:
    return Planted(in_karpathy(root, karpathy_image(split="tset")), "odd.png")


@bad("caption")
def karpathy_sentences_that_are_numbers(root: Path) -> Planted:
    return Planted(in_karpathy(root, karpathy_image(sentences=[1, 2])), "odd.png")


# ---------------------------------------------------------------- tables


@hopeless("caption isn't text")
def a_table_with_numbers_for_captions(root: Path) -> Planted:
    path = root / "data/images.parquet"
    write_table(path, [within(seed, seed) for seed in range(12)])
    return Planted(path, "images.parquet")


@hopeless("Parquet")
def a_table_that_is_not_parquet(root: Path) -> Planted:
    path = files(root, {"images.parquet": b"file_name,text\nkite.png,a kite\n"})
    return Planted(path / "images.parquet", "images.parquet")


@bad("file can't be read")
def one_of_many_tables_that_is_not_parquet(root: Path) -> Planted:
    in_table(root, name="part-0.parquet")
    (root / "data/part-1.parquet").write_bytes(b"PAR1 and no more")
    return Planted(root / "data", "part-1.parquet")


@bad("file can't be read")
def one_of_many_tables_that_is_damaged_within(root: Path) -> Planted:
    in_table(root, name="part-0.parquet")
    damage(in_table(root, name="part-1.parquet"))
    return Planted(root / "data", "part-1.parquet")


@bad("")
def one_of_many_tables_that_has_other_columns(root: Path) -> Planted:
    in_table(root, name="part-0.parquet")
    write_table(root / "data/part-1.parquet", [{"height": 3}])
    return Planted(root / "data", "part-1.parquet")


@bad("outside of the data folder")
def one_of_many_tables_that_links_out_of_the_folder(root: Path) -> Planted:
    in_table(root, name="part-0.parquet")
    write_table(root / "outside/secret.parquet", [within(SECRET, SECRET_CAPTION)])
    (root / "data/part-1.parquet").symlink_to("../outside/secret.parquet")
    return Planted(root / "data", "part-1.parquet")


@hopeless("Parquet")
def a_table_that_is_damaged_within(root: Path) -> Planted:
    return Planted(damage(in_table(root)), "images.parquet")


@hopeless("can't be read")
def a_table_of_file_names_that_is_damaged_within(root: Path) -> Planted:
    path = files(root, {})
    write_table(path / "images.parquet", GOOD_LINES)
    return Planted(damage(path / "images.parquet"), "images.parquet")


@bad("UTF-8")
def a_caption_of_a_table_that_is_not_utf_8(root: Path) -> Planted:
    return Planted(with_latin_text(in_table(root, within(ODD, "a café"))), "7")


@bad("UTF-8")
def a_caption_of_a_table_of_file_names_that_is_not_utf_8(root: Path) -> Planted:
    path = files(root, {"odd.png": png(ODD)}) / "images.parquet"
    write_table(path, [*GOOD_LINES, line(text="a café")])
    return Planted(with_latin_text(path), "images.parquet row 12")


@hopeless("Parquet")
def a_table_whose_description_is_damaged(root: Path) -> Planted:
    path = root / "data/images.parquet"
    write_table(path, [within(ODD, ODD_CAPTION)], {"image": {"_type": "Image"}, "text": {"_type": "Value"}})
    return Planted(path, "images.parquet")


def labelled(root: Path, label: int) -> Path:
    """A table whose splits are numbers that stand for names; the odd image has this number."""
    names = {"split": {"names": ["train", "val", "test"], "_type": "ClassLabel"}}
    features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}} | names
    good = [within(seed, caption, split=seed % 3) for caption, seed in GOOD.items()]
    write_table(root / "data/images.parquet", [*good, within(ODD, ODD_CAPTION, split=label)], features)
    return root / "data/images.parquet"


@harmless()
def a_class_label_of_minus_one_which_is_none(root: Path) -> Planted:
    return Planted(labelled(root, -1))


@bad("split")
def a_class_label_that_is_no_class(root: Path) -> Planted:
    return Planted(labelled(root, 7), "images.parquet row 12")


@bad("")
def a_image_of_a_table_that_is_null(root: Path) -> Planted:
    empty = {"image": {"bytes": None, "path": None}, "text": ODD_CAPTION}
    return Planted(in_table(root, empty), "7")


@bad("empty file")
def a_image_of_a_table_without_bytes(root: Path) -> Planted:
    return Planted(in_table(root, {"image": {"bytes": b"", "path": None}, "text": ODD_CAPTION}), "7")


@bad("caption")
def a_caption_of_a_table_that_is_null(root: Path) -> Planted:
    return Planted(in_table(root, within(ODD, None)), "7")


def saved(root: Path) -> Path:
    """What `datasets` saves to disk: the good rows, and the odd one."""
    import datasets

    rows = [*(within(seed, caption) for caption, seed in GOOD.items()), within(ODD, ODD_CAPTION)]
    datasets.Dataset.from_list(rows).save_to_disk(root / "data")
    return root / "data"


@hopeless("outside of the data folder")
def a_saved_data_set_that_leads_out(root: Path) -> Planted:
    path = saved(root)
    (rows,) = path.glob("*.arrow")
    rows.rename(root / "outside/secret.arrow")
    state = json.loads((path / "state.json").read_text())
    state["_data_files"][0]["filename"] = "../outside/secret.arrow"
    (path / "state.json").write_text(json.dumps(state))
    return Planted(path, "secret.arrow")


@hopeless("saved data set")
def a_saved_data_set_that_is_cut_off(root: Path) -> Planted:
    path = saved(root)
    (rows,) = path.glob("*.arrow")
    rows.write_bytes(rows.read_bytes()[:-5000])
    return Planted(path, str(path))


def with_ids(root: Path, odd_ids: Sequence[str | None]) -> Path:
    """A CSV table of images with ids; its odd images have these."""
    rows = [[f"{name}.png", caption_of(name), f"id-{name}"] for name in NAMES]
    rows += [[f"odd-{number}.png", ODD_CAPTION, odd_id] for number, odd_id in enumerate(odd_ids)]
    text = io.StringIO()
    csv.writer(text).writerows([["file_name", "text", "id"], *rows])
    odd = {f"odd-{number}.png": png(ODD + number) for number in range(len(odd_ids))}
    return files(root, {"images.csv": text.getvalue().encode(), **odd}) / "images.csv"


@bad("one id with two images")
def two_images_with_one_id(root: Path) -> Planted:
    return Planted(with_ids(root, ["id-odd", "id-odd"]), "id-odd", settings={"id_column": "id"})


@bad("id is missing")
def a_image_without_an_id(root: Path) -> Planted:
    return Planted(with_ids(root, [None]), "line 14", settings={"id_column": "id"})


# ---------------------------------------------------------------- tar shards


@bad("not an image")
def a_shard_with_a_member_that_is_no_image(root: Path) -> Planted:
    members = [Member("odd.jpg", b"<html>404</html>"), Member("odd.txt", ODD_CAPTION.encode())]
    return Planted(in_shard(root, *members), "odd")


@bad("shard can't be read")
def a_shard_that_is_cut_off(root: Path) -> Planted:
    content = tarred([Member("odd.png", png(ODD)), Member("odd.txt", ODD_CAPTION.encode())])
    return Planted(in_last_shard(root, content[:700]), "shard-01.tar")


@bad("")
def a_shard_with_a_damaged_header(root: Path) -> Planted:
    header = bytearray(tarred([Member("odd.png", png(ODD))]))
    header[148:156] = b"77777777"  # the checksum
    return Planted(in_last_shard(root, bytes(header)), "shard-01.tar")


@bad("")
def a_shard_that_is_no_tar(root: Path) -> Planted:
    in_shard(root)
    (root / "data/shard-01.tar").write_bytes(b"<html>404 Not Found</html>" * 100)
    return Planted(root / "data", "shard-01.tar")


@hopeless("shard-00.tar")
def the_only_shard_that_is_no_tar(root: Path) -> Planted:
    path = root / "data/shard-00.tar"
    path.write_bytes(b"<html>404 Not Found</html>" * 100)
    return Planted(path, "shard-00.tar")


@bad("")
def an_empty_shard(root: Path) -> Planted:
    in_shard(root)
    (root / "data/shard-01.tar").write_bytes(b"")
    return Planted(root / "data", "shard-01.tar")


@bad("caption")
def a_sample_of_a_shard_without_a_caption(root: Path) -> Planted:
    return Planted(in_shard(root, Member("odd.png", png(ODD))), "odd")


@bad("image")
def a_sample_of_a_shard_without_a_image(root: Path) -> Planted:
    return Planted(in_shard(root, Member("odd.txt", ODD_CAPTION.encode())), "odd")


@bad("UTF-8")
def a_caption_of_a_shard_that_is_not_utf_8(root: Path) -> Planted:
    members = [Member("odd.png", png(ODD)), Member("odd.txt", "a café".encode("latin-1"))]
    return Planted(in_shard(root, *members), "odd")


@bad("JSON")
def a_caption_of_a_shard_whose_json_is_cut_in_half(root: Path) -> Planted:
    members = [Member("odd.png", png(ODD)), Member("odd.json", b'{"caption": "a fo')]
    return Planted(in_shard(root, *members), "odd")


@bad("")
def two_samples_of_a_shard_with_one_name(root: Path) -> Planted:
    members = [Member("kite.png", png(ODD)), Member("kite.txt", ODD_CAPTION.encode())]
    return Planted(in_shard(root, *members), "kite")


@harmless()
def a_member_of_a_shard_whose_name_climbs_out(root: Path) -> Planted:
    name = "../outside/secret"
    members = [Member(f"{name}.png", png(ODD)), Member(f"{name}.txt", ODD_CAPTION.encode())]
    return Planted(in_shard(root, *members))


@harmless()
def what_a_mac_leaves_in_shards(root: Path) -> Planted:
    left = [Member("./._odd.png", b"\0\5\x16\7"), Member("./._odd.txt", b"\0\5\x16\7\xff")]
    return Planted(in_shard(root, *left, Member("./odd.png", png(ODD)), Member("./odd.txt", ODD_CAPTION.encode())))


@bad("")
def a_member_of_a_shard_that_links_out(root: Path) -> Planted:
    members = [Member("odd.png", link="../outside/secret.png"), Member("odd.txt", ODD_CAPTION.encode())]
    return Planted(in_shard(root, *members), "odd")


@bad("outside of the data folder")
def a_shard_that_links_out_of_the_folder(root: Path) -> Planted:
    in_shard(root)
    secret = tarred([Member("a.png", png(SECRET)), Member("a.txt", SECRET_CAPTION.encode())])
    (root / "outside/secret.tar").write_bytes(secret)
    (root / "data/shard-01.tar").symlink_to("../outside/secret.tar")
    return Planted(root / "data", "shard-01.tar")


@bad("")
def a_shard_missing_from_a_brace_pattern(root: Path) -> Planted:
    in_shard(root)
    return Planted(f"{root}/data/shard-{{00..01}}.tar", "shard-01.tar")
