"""JSON files of captions: COCO's, Karpathy's, or a list of objects; as rows."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources.columns import find_columns
from captioning.data.sources.paths import MISSING, ImageFolder
from captioning.data.sources.row_builder import NO_IMAGE, TWO_IMAGES, UNCAPTIONED, RowBuilder
from captioning.data.sources.table import add_lines, read_records, read_table
from captioning.data.sources.text_files import Line
from captioning.errors import UserError

# Where COCO's images are, below the folder that its archives were unpacked in.
COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
NO_OBJECT = "item isn't a JSON object"
CAPTIONS = "captions"  # the column that all captions of an image are put in


def read_json(path: Path, *, images: Path | None = None, columns: Columns = USUAL) -> Rows:
    """The images and captions of one JSON file.

    It is COCO's captions format (https://cocodataset.org/#format-data), Karpathy's splits of COCO, Flickr8k or
    Flickr30k (https://cs.stanford.edu/people/karpathy/deepimagesent/), whose ``restval`` is trained on, or a list of
    objects, each of them like the line of a table. An image is looked for below ``images`` (the file's own folder by
    default) by its file name, then in the subfolder that Karpathy's ``filepath`` names, then in COCO's own subfolders.

    Raises:
        UserError: the file isn't complete, is nothing of these, lacks a column, or has nothing usable in it.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"data.path={path}: not UTF-8 text; save the file in that encoding") from error
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data"):
            return read_table(path, images=images, columns=columns)  # a JSON object on each line
        raise UserError(f"data.path={path}: not JSON ({error}); is the file complete?") from error
    if isinstance(content, list):
        return read_records(content, path, images=images, columns=columns)
    listed = content.get("images") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise _unknown(path)
    draft = RowBuilder()
    image_folder = ImageFolder(images or path.parent, subfolders=COCO_FOLDERS)
    objects = list(_objects(draft, listed, f"{path.name} images"))
    if any("sentences" in image for _, image in objects):
        lines = list(_karpathy_lines(objects, image_folder, columns.caption or "raw"))
    elif isinstance(content.get("annotations"), list):
        annotations = list(_objects(draft, content["annotations"], f"{path.name} annotations"))
        lines = list(_coco_lines(draft, path, objects, annotations, columns.caption or "caption"))
    else:
        raise _unknown(path)
    if lines:
        names = list(dict.fromkeys(name for line in lines for name in line.cells))
        add_lines(draft, lines, find_columns(path.name, names, replace(columns, caption=CAPTIONS)), image_folder)
    return draft.rows_of_files(str(path), image_folder)


def _unknown(path: Path) -> UserError:
    return UserError(
        f'data.path={path}: neither COCO\'s captions ({{"images": […], "annotations": […]}}), nor Karpathy\'s splits '
        '({"images": [{"sentences": …}]}), nor a list of objects'
    )


def _objects(draft: RowBuilder, items: Iterable[Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The items that are objects, each with its place in the file."""
    for number, item in enumerate(items):
        if isinstance(item, dict):
            yield f"{where}[{number}]", item
        else:
            draft.leave_out(NO_OBJECT, f"{where}[{number}]")


def _karpathy_lines(
    images: Iterable[tuple[str, dict[str, Any]]], image_folder: ImageFolder, caption: str
) -> Iterator[Line]:
    for where, image in images:
        sentences = image.get("sentences")
        captions = [
            sentence.get(caption) if isinstance(sentence, dict) else sentence
            for sentence in (sentences if isinstance(sentences, list) else [sentences])
        ]
        name, folder = image.get("filename"), image.get("filepath")
        if isinstance(name, str) and isinstance(folder, str) and image_folder.find(name).trouble == MISSING:
            longer = f"{folder}/{name}"
            name = name if image_folder.find(longer).trouble else longer
        yield Line(where, {**image, "filename": name, CAPTIONS: captions})


def _coco_lines(
    draft: RowBuilder,
    path: Path,
    images: list[tuple[str, dict[str, Any]]],
    annotations: list[tuple[str, dict[str, Any]]],
    caption: str,
) -> Iterator[Line]:
    if annotations and not any(caption in annotation for _, annotation in annotations):
        raise UserError(
            f"data.path={path}: no annotation has a {caption!r}; of COCO's files it is captions_*.json that has them"
        )
    known = {str(image.get("id")) for _, image in images}
    of_image: dict[str, list[dict[str, Any]]] = {}
    for where, annotation in annotations:
        image_id = str(annotation.get("image_id"))
        if image_id in known:
            of_image.setdefault(image_id, []).append(annotation)
        else:
            draft.leave_out(NO_IMAGE, f"{where}: no image has the id {image_id:.40}")
    for where, image in _without_ambiguous(draft, images):
        found = of_image.get(str(image["id"]))
        if found is None:
            draft.leave_out(UNCAPTIONED, f"{image.get('file_name')} ({where})")
            continue
        found.sort(key=_annotation_order)
        yield Line(where, {**image, CAPTIONS: [annotation.get(caption) for annotation in found]})


def _annotation_order(annotation: dict[str, Any]) -> tuple[int, str]:
    number = annotation.get("id")
    return (number if isinstance(number, int) else 0), str(annotation)


def _without_ambiguous(
    draft: RowBuilder, images: list[tuple[str, dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The images whose ids stand for no other image."""
    names: dict[str, Any] = {}
    ambiguous: set[str] = set()
    for where, image in images:
        image_id, name = str(image.get("id")), image.get("file_name")
        if names.setdefault(image_id, name) != name and image_id not in ambiguous:
            ambiguous.add(image_id)
            draft.leave_out(TWO_IMAGES, f"{image_id} ({where})")
    done = set()
    for where, image in images:
        image_id = str(image.get("id"))
        if "id" not in image:
            draft.leave_out("id is missing", where)
        elif image_id not in ambiguous and image_id not in done:
            done.add(image_id)
            yield where, image
