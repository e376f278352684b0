"""The model card: what a model is, from what its run left behind. What isn't known isn't said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from captioning.files import write_text
from captioning.inference.pretrained import find_model
from captioning.metrics import score
from captioning.models.generation import Decoding
from captioning.models.git import GitForCausalLM
from captioning.runs.report.numbers import number_rows, shown
from captioning.runs.run_folder import RunFolder

SAMPLES = "samples"
TAG = "captioning"  # of all models by this project
OWN_DATA = "creatures"
HEADLINES = ("cider", "bleu4", "rouge_l", "wer", "cer", "exact_match")  # of the numbers, those of the card's head


@dataclass(frozen=True)
class Sample:
    """A test image that the card shows; ``jpeg`` is a small copy."""

    file: str
    jpeg: bytes
    caption: str
    reference: str


@dataclass(frozen=True)
class Card:
    """What is said of a model; see ``model_card.md`` for the words.

    Args:
        name: of the model.
        parameters: how many.
        decoding: how its captions are chosen.
        run: that trained it, if it is known.
        license: of the model.
        data_license: of the images and captions.
        samples: of the test images.
        form: of the model's files: ``transformers``, ``onnx`` or ``onnx int8``.
    """

    name: str
    parameters: int
    decoding: Decoding
    run: RunFolder | None = None
    license: str | None = None
    data_license: str | None = None
    samples: list[Sample] = field(default_factory=list)
    form: str = "transformers"

    def write(self, folder: Path) -> None:
        """Write README.md and the images that it shows."""
        if self.samples:
            (folder / SAMPLES).mkdir()
        for sample in self.samples:
            (folder / sample.file).write_bytes(sample.jpeg)
        write_text(folder / "README.md", self.text())

    def text(self) -> str:
        """The card, in Markdown, with the metadata that the Hub reads."""
        environment = Environment(
            loader=PackageLoader("captioning", "export"),
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,
        )
        environment.filters["cell"] = cell
        return environment.get_template("model_card.md").render(card=self, run=self.run)

    @property
    def metadata(self) -> str:
        """The head of the card, in YAML."""
        data = ModelCardData(
            base_model=self.base_model,
            datasets=self.dataset if self.is_on_hub else None,
            eval_results=self._results(),
            library_name=self.form.partition(" ")[0],
            license=self.license,
            model_name=self.name,
            pipeline_tag="image-to-text",
            tags=["image-captioning", TAG],
        )
        return str(data.to_yaml())

    def _results(self) -> list[EvalResult] | None:
        metrics = (self.run and self.run.metrics) or {}
        return [
            EvalResult(
                task_type="image-to-text",
                dataset_type=self.dataset if self.is_on_hub else "captioning",
                dataset_name=self.dataset,
                dataset_split=self.split,
                metric_type=name,
                metric_name=name,
                metric_value=metrics[f"test/{name}"],
            )
            for name in HEADLINES
            if metrics.get(f"test/{name}") is not None
        ] or None

    @property
    def base_model(self) -> str | None:
        """The Hub's name of what was fine-tuned."""
        checkpoint = str(self._setting("model", "checkpoint") or "")
        return (
            checkpoint if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint) and not Path(checkpoint).exists() else None
        )

    @property
    def began(self) -> str:
        """What training began with, in words."""
        if self.base_model:
            return f"fine-tuned from [{self.base_model}](https://huggingface.co/{self.base_model})"
        return "fine-tuned from another checkpoint" if self._setting("model", "checkpoint") else "trained from scratch"

    @property
    def is_on_hub(self) -> bool:
        """Whether the data are a data set of the Hub."""
        return bool(self._setting("data", "source") == "hub")

    @property
    def dataset(self) -> str:
        """The name of the data, without where they lie."""
        if self._setting("data", "source") == OWN_DATA:
            return OWN_DATA
        path = str(self._setting("data", "path") or "its own data")
        return path if self.is_on_hub else Path(path).name

    @property
    def data_words(self) -> str:
        """The data, in words."""
        if self._setting("data", "source") == OWN_DATA:
            return "drawings of creatures that `captioning` makes by chance, with their captions"
        if self.is_on_hub:
            return f"[{self.dataset}](https://huggingface.co/datasets/{self.dataset})"
        return f"images with captions called `{self.dataset}`"

    @property
    def license_of_data(self) -> str | None:
        """In words."""
        return self.data_license or ("apache-2.0" if self._setting("data", "source") == OWN_DATA else None)

    @property
    def split(self) -> str:
        """What the numbers are of."""
        return str(((self.run and self.run.environment) or {}).get("evaluated_split", "test"))

    @property
    def counts(self) -> str:
        """How many images and captions each split had, in words."""
        splits = ((self.run and self.run.data) or {}).get("splits", {})
        parts = (f"{facts['images']:,} ({facts['captions']:,} captions) for {name}" for name, facts in splits.items())
        return ", ".join(parts)

    @property
    def numbers(self) -> list[tuple[str, str, str, str, str]]:
        """Label, meaning, value, interval and which way is better, of each test number."""
        metrics = (self.run and self.run.metrics) or {}
        return [
            (
                row.meaning.label,
                row.meaning.words,
                shown(row.test),
                "" if row.interval is None else f"{shown(row.interval[0])} to {shown(row.interval[1])}",
                row.better,
            )
            for row in number_rows(metrics, images=self.tested)
            if row.test is not None
        ]

    @property
    def tested(self) -> int:
        """How many images the numbers are of."""
        return len((self.run and self.run.predictions) or [])

    @property
    def alarms(self) -> list[str]:
        """What was alarming of the tested captions."""
        return [alarm["message"] for alarm in (self.run and self.run.alarms) or [] if alarm["split"] == "test"]

    @property
    def settings(self) -> str:
        """Those of the run, in YAML, without where things lie on the machine that trained it."""
        settings = without_places((self.run and self.run.config) or {})
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).strip() if settings else ""

    @property
    def versions(self) -> str:
        """Of what it was trained with, in words."""
        environment = (self.run and self.run.environment) or {}
        packages = {"python": environment.get("python"), **environment.get("packages", {})}
        return ", ".join(f"{name} {version}" for name, version in packages.items() if version)

    def _setting(self, group: str, name: str) -> Any:
        return (((self.run and self.run.config) or {}).get(group) or {}).get(name)


def read_card(
    source: str,
    *,
    network: GitForCausalLM,
    decoding: Decoding,
    samples: int,
    name: str,
    license: str | None,  # noqa: A002
    data_license: str | None,
    form: str = "transformers",
) -> Card:
    """What there is to say of a model.

    Args:
        source: where it is; only of a run folder, and the best model in it, more is known than the model itself.
        network: the model.
        decoding: how its captions are chosen.
        samples: test images to show.
        name: of the model.
        license: of the model.
        data_license: of the data.
        form: of the model's files.
    """
    model = find_model(source)
    is_of_run = isinstance(model, Path) and model.name == "model" and (model.parent / ".hydra").is_dir()
    run = RunFolder(Path(model).parent) if is_of_run else None
    return Card(
        name=name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        decoding=decoding,
        run=run,
        license=license,
        data_license=data_license,
        samples=_samples(run, samples) if run else [],
        form=form,
    )


def _samples(run: RunFolder, count: int) -> list[Sample]:
    """Test images from the best caption to the worst, at equal distances."""
    predictions = list((run.predictions or {}).values())
    if not predictions or not count:
        return []
    order = score([p["prediction"] for p in predictions], [p["references"] for p in predictions]).worst_first()[::-1]
    there = [predictions[index] for index in order if ("test", predictions[index]["id"]) in run.thumbnails]
    places = range(min(count, len(there)))
    chosen = [there[round(place * (len(there) - 1) / max(1, len(places) - 1))] for place in places]
    return [
        Sample(
            f"{SAMPLES}/{number}.jpg",
            run.thumbnails["test", prediction["id"]],
            prediction["prediction"],
            prediction["references"][0],
        )
        for number, prediction in enumerate(chosen, 1)
    ]


def cell(text: str) -> str:
    """Text that isn't ours, for a table in Markdown."""
    plain = escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", plain)


def without_places(value: Any) -> Any:
    """Settings with only the last part of each path of a machine."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    is_place = isinstance(value, str) and re.match(r"(/|~|[A-Za-z]:[\\/]|\.\.?/)", value)
    return "…/" + re.split(r"[\\/]", value.rstrip("/"))[-1] if is_place else value
