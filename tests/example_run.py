"""A run folder as a training leaves it, written without one: small, or as large as a measurement wants it."""

import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image, ImageDraw
from pyarrow import parquet

from captioning.metrics import score

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "bar")
PLACES = ("on the left", "on the right", "in the middle")


def drawing(number: int) -> tuple[Image.Image, list[str]]:
    """A shape on a ground, and two captions of it."""
    generator = random.Random(number)
    ground, color = generator.sample(COLORS, 2)
    shape, place = generator.choice(SHAPES), generator.choice(PLACES)
    image = Image.new("RGB", (128, 96), ground)
    left = 10 + 32 * ("on the left", "in the middle", "on the right").index(place)
    box = (left, 30, left + 40, 40 if shape == "bar" else 70)
    (ImageDraw.Draw(image).ellipse if shape == "circle" else ImageDraw.Draw(image).rectangle)(box, fill=color)
    return image, [f"a {color} {shape} {place}, on a {ground} ground", f"a {color} {shape}"]


def jpeg(image: Image.Image, side: int = 128) -> bytes:
    image = image.convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_thumbnails(path: Path, rows: Sequence[tuple[str, str, bytes]]) -> None:
    columns = dict(zip(("split", "id", "jpeg"), zip(*rows, strict=True), strict=True))
    parquet.write_table(pyarrow.table({name: list(column) for name, column in columns.items()}), path)


def write_example_run(
    folder: Path,
    *,
    test: int = 8,
    steps: int = 60,
    validations: int = 4,
    images: Sequence[tuple[Image.Image, list[str]]] | None = None,
    all_numbers: bool = False,
    skill: float = 0.85,
) -> Path:
    """Write a whole run folder; ``images`` take the place of drawn ones, and with ``skill`` 1 no test is failed."""
    generator = random.Random(0)
    pairs = list(images or map(drawing, range(test + 12)))
    vocabulary = sorted({word for _, captions in pairs for word in captions[0].split()})
    names = [f"image-{number:03}.png" for number in range(len(pairs))]

    def guess(caption: str, skill: float) -> str:
        """The caption with words mistaken, left out and said twice, the fewer the greater the skill."""
        words = []
        for word in caption.split():
            slip = generator.random() > skill and generator.random() < 0.5
            words += generator.choice(([], [generator.choice(vocabulary)], [word, word])) if slip else [word]
        return " ".join(words)

    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("- experiment=quickstart\n- model=git-tiny\n- '+note=two words'\n")
    (folder / ".hydra/config.yaml").write_text(
        "model:\n  checkpoint: null\n  lr: 0.001\n"
        "data:\n  source: creatures\n  processor: ${model.checkpoint}\nseed: 42\n"
    )
    splits = {"test": names[:test], "val": names[test : test + 6], "train": names[test + 6 :]}
    (folder / "splits.json").write_text(json.dumps(splits))
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "started": "2026-03-14 15:09",
                "python": "3.11.7",
                "packages": {"captioning": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6"},
                "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "clean": True},
                "devices": "1 x cuda, bf16-mixed",
            }
        )
    )
    every = max(1, steps // validations)
    rows: list[dict[str, Any]] = []
    gallery = []
    for step in range(1, steps + 1):
        progress = step / steps
        rows.append(
            {
                "step": step - 1,  # Lightning's loggers start at 0
                "train/loss": 6 * 0.02**progress * generator.uniform(0.7, 1.4),
                "train/lr": 1e-3 * min(10 * progress, 1 - progress),
                "train/images_per_second": 400 * generator.uniform(0.9, 1.05),
                "train/seconds_per_step": 0.08 * generator.uniform(0.9, 1.1),
                "train/data_wait_share": 0.04 * generator.uniform(0.5, 2),
            }
        )
        if step % every == 0:
            truths = [pairs[number][1] for number in range(test, test + 6)]
            said = [guess(captions[0], progress**0.3) for captions in truths]
            values = {f"val/{name}": value for name, value in score(said, truths).values().items()}
            values = {name: value for name, value in values.items() if all_numbers or name in ("val/wer", "val/bleu2")}
            rows.append({"step": step - 1, "val/loss": 0.3 + 5 * 0.02**progress, **values})
            gallery += [
                {"step": step, "id": key, "references": captions, "prediction": caption}
                for key, captions, caption in zip(splits["val"], truths, said, strict=True)
            ]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
    write_lines(folder / "gallery.jsonl", gallery)

    references = [captions for _, captions in pairs[:test]]
    predictions = [guess(captions[0], skill) for captions in references]
    write_lines(
        folder / "predictions.jsonl",
        [
            {"id": key, "references": truths, "prediction": said}
            for key, truths, said in zip(splits["test"], references, predictions, strict=True)
        ],
    )
    scores = score(predictions, references)
    metrics: dict[str, Any] = {f"test/{name}": value for name, value in scores.values().items()}
    metrics |= {f"test/{name}_ci95": interval for name, interval in scores.intervals().items()}
    metrics["tested_step"] = validations * every
    metrics |= {"test/loss": 0.31, "test/token_accuracy": 0.93, "val/loss": rows[-1]["val/loss"]}
    metrics |= {name: value for name, value in rows[-1].items() if name.startswith("val/")}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_lines(
        folder / "alarms.jsonl",
        [
            {
                "step": 15,
                "split": "val",
                "kind": "one caption for everything",
                "message": "9 of 10 images get one caption; lower model.lr",
            }
        ],
    )
    facts = {"width": [96, 128, 640], "height": [96, 96, 480], "caption_words": {"3": 12, "8": 12}}
    (folder / "data.json").write_text(
        json.dumps(
            {
                "splits": {
                    split: {"images": len(ids), "captions": 2 * len(ids), **facts} for split, ids in splits.items()
                },
                "findings": [
                    {"severity": "left out", "kind": "image can't be read: not an image", "names": ["notes.png"]}
                ],
                "samples": [
                    {"split": "train", "id": key, "captions": pairs[names.index(key)][1]}
                    for key in splits["train"][:12]
                ],
            }
        )
    )
    owner = {key: split for split, keys in splits.items() for key in keys}
    write_thumbnails(
        folder / "thumbnails.parquet",
        [(owner[key], key, jpeg(image)) for key, (image, _) in zip(names, pairs, strict=True)],
    )
    return folder
