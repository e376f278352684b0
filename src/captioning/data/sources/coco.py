"""JSON files of captions: COCO's, Karpathy's, or a list of objects."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from captioning.data.rows import NO_IMAGE, TWO_IMAGES, UNCAPTIONED, Columns, RawRow, RowIssue
from captioning.data.sources.columns import Table
from captioning.data.sources.paths import MISSING, ImageFolder
from captioning.data.sources.tables import read_json_lines, rows_table
from captioning.errors import UserError

# Where COCO's images are, below the folder that its archives were unpacked in.
COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
CAPTIONS = "captions"  # the column that all captions of an image are put in


def json_table(path: Path, image_folder: ImageFolder, columns: Columns) -> Table:
    """The images and captions of one JSON file.

    It is COCO's captions format (https://cocodataset.org/#format-data), Karpathy's splits of COCO, Flickr8k or
    Flickr30k (https://cs.stanford.edu/people/karpathy/deepimagesent/), whose ``restval`` is trained on, a list of
    objects, or an object on each line.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data"):
            return rows_table(list(read_json_lines(path, path.name)), path.name, columns)
        is_text = not isinstance(error, UnicodeDecodeError)
        why = f"not JSON ({error}); is the file complete?" if is_text else "not UTF-8 text; save it in that encoding"
        raise UserError(f"data.path={path}: {why}") from error
    issues: list[RowIssue] = []
    if isinstance(content, list):
        rows = _objects(content, f"{path.name} item {{}}", issues, start=1)
        return rows_table([*issues, *rows], path.name, columns)
    listed = content.get("images") if isinstance(content, dict) else None
    images = _objects(listed, f"{path.name} images[{{}}]", issues)
    if any("sentences" in image.cells for image in images):
        rows = list(_karpathy_rows(images, image_folder, columns.caption or "raw"))
    elif isinstance(listed, list) and isinstance(content.get("annotations"), list):
        annotations = _objects(content["annotations"], f"{path.name} annotations[{{}}]", issues)
        caption = columns.caption or "caption"
        if annotations and not any(caption in each.cells for each in annotations):
            why = f"no annotation has a {caption!r}"
            raise UserError(f"data.path={path}: {why}; of COCO's files, captions_*.json has them")
        rows = list(_coco_rows(images, annotations, caption, issues))
    else:
        raise UserError(
            f'data.path={path}: neither COCO\'s captions ({{"images": […], "annotations": […]}}), nor Karpathy\'s '
            'splits ({"images": [{"sentences": …}]}), nor a list of objects'
        )
    return rows_table([*issues, *rows], path.name, replace(columns, caption=CAPTIONS))


def _objects(items: object, where: str, issues: list[RowIssue], start: int = 0) -> list[RawRow]:
    """The objects of a list; what isn't an object in it is added to ``issues``."""
    items = items if isinstance(items, list) else []
    places = [(where.format(number), item) for number, item in enumerate(items, start)]
    issues += (RowIssue("item isn't a JSON object", place) for place, item in places if not isinstance(item, dict))
    return [RawRow(place, item) for place, item in places if isinstance(item, dict)]


def _karpathy_rows(images: list[RawRow], image_folder: ImageFolder, caption: str) -> Iterator[RawRow]:
    for where, image in images:
        sentences = image.get("sentences")
        listed = sentences if isinstance(sentences, list) else [sentences]
        captions = [each.get(caption) if isinstance(each, dict) else each for each in listed]
        name, folder = image.get("filename"), image.get("filepath")
        if isinstance(name, str) and isinstance(folder, str) and image_folder.find(name).error == MISSING:
            longer = f"{folder}/{name}"
            name = name if image_folder.find(longer).error else longer
        yield RawRow(where, {**image, "filename": name, CAPTIONS: captions})


def _coco_rows(
    images: list[RawRow], annotations: list[RawRow], caption: str, issues: list[RowIssue]
) -> Iterator[RawRow]:
    known: dict[str, RawRow] = {}
    ambiguous: set[str] = set()
    for where, image in images:
        if "id" not in image:
            issues.append(RowIssue("id is missing", where))
            continue
        image_id = str(image["id"])
        first = known.setdefault(image_id, RawRow(where, image)).cells
        if first.get("file_name") != image.get("file_name") and image_id not in ambiguous:
            ambiguous.add(image_id)
            issues.append(RowIssue(TWO_IMAGES, f"{image_id} ({where})"))
    of_image: dict[str, list[dict[str, object]]] = {image_id: [] for image_id in known}
    for where, annotation in annotations:
        image_id = str(annotation.get("image_id"))
        if image_id in known:
            of_image[image_id].append(annotation)
        else:
            issues.append(RowIssue(NO_IMAGE, f"{where}: no image has the id {image_id:.40}"))

    def order(annotation: dict[str, object]) -> tuple[int, str]:
        number = annotation.get("id")
        return (number if isinstance(number, int) else 0), str(annotation)

    for image_id, (where, image) in known.items():
        if image_id not in ambiguous:
            captions = [each.get(caption) for each in sorted(of_image[image_id], key=order)]
            if captions:
                yield RawRow(where, {**image, CAPTIONS: captions})
            else:
                issues.append(RowIssue(UNCAPTIONED, f"{image.get('file_name')} ({where})"))
