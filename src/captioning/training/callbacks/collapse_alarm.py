"""An alarm when the model says the same of every image, repeats itself, or says nothing."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import lightning as L

from captioning.errors import UserError
from captioning.metrics.collapse import repetition, top_caption, top_share
from captioning.metrics.corpus import words
from captioning.runs.run_folder import RunFolder
from captioning.training.callbacks.wandb_logger import wandb_loggers
from captioning.training.evaluator import Evaluation
from captioning.training.module import CaptionModule

_log = logging.getLogger(__name__)


class Alarm(NamedTuple):
    """What went wrong, and a line that names the likely cause and what to do."""

    kind: str
    message: str


class CollapseAlarm(L.Callback):
    """Compares the variety of generated captions with that of their references after each validation and test.

    An alarm is given once when it arises, in the terminal and to wandb, and that it is over is said too. The run
    folder's ``alarms.jsonl`` has a line for each validation and test at which it held. A model from random weights
    gives one early and outgrows it.

    Args:
        dirpath: the run folder.
        top_caption: alarm above this share of images with the same caption, if it is also above one and a half times
            the references' own share.
        repetition: alarm where this share of bigrams more than in the references are repeats.
        empty_captions: alarm above this share of captions without a word.
        min_images: fewer images than this prove nothing.
    """

    def __init__(
        self,
        *,
        dirpath: str,
        top_caption: float = 0.5,
        repetition: float = 0.2,
        empty_captions: float = 0.2,
        min_images: int = 10,
    ) -> None:
        limits = {"top_caption": top_caption, "repetition": repetition, "empty_captions": empty_captions}
        for name, share in limits.items():
            if not 0 <= share <= 1:
                raise UserError(f"callbacks.collapse_alarm.{name} is a share between 0 and 1, got {share}")
        self.run = RunFolder(dirpath)
        self.limits = limits
        self.min_images = min_images
        self.lines: list[dict[str, object]] = []
        self._raised: dict[str, set[str]] = {"val": set(), "test": set()}

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines, "raised": sorted(self._raised["val"])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines, self._raised["val"] = state_dict["lines"], set(state_dict["raised"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._examine(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._examine(trainer, pl_module, "test")

    def _examine(self, trainer: L.Trainer, pl_module: L.LightningModule, phase: str) -> None:
        assert isinstance(pl_module, CaptionModule)
        evaluation = pl_module.evaluations[phase]
        if not trainer.is_global_zero or len(evaluation.predictions) < self.min_images:
            return
        # The test is of the best checkpoint, whose step isn't the trainer's.
        step, where = (trainer.global_step, f"step {trainer.global_step}") if phase == "val" else (None, "test")
        remedy = _remedy(trainer, pl_module, is_over=phase == "test")
        alarms = list(find_collapse(evaluation, self.limits, remedy=remedy))
        raised, self._raised[phase] = self._raised[phase], {alarm.kind for alarm in alarms}
        for kind in raised - self._raised[phase]:
            _log.info(f"{where}: the captions have recovered from {kind}")
        for alarm in alarms:
            self.lines.append({"step": step, "split": phase, **alarm._asdict()})
            if alarm.kind not in raised:
                _log.warning(f"alarm ({where}): {alarm.message}")
                for tracker in wandb_loggers(trainer):
                    tracker.alert(f"captions collapse: {alarm.kind}", alarm.message)
        if alarms:
            self.run.write_json_lines("alarms.jsonl", self.lines)


def _remedy(trainer: L.Trainer, module: CaptionModule, *, is_over: bool) -> str:
    lr = module.hparams["lr"]
    if not trainer.global_step:
        return "look at how this model was trained, and at what its processor expects"
    if module.hparams["checkpoint"] is None:
        start = "" if is_over else "a model from random weights starts like this; if it lasts, "
        return f"{start}train longer, or with less than model.lr={lr:g}"
    return f"model.lr={lr:g} is likely too high for this checkpoint and data: try model.lr={lr / 5:.0e}"


def find_collapse(evaluation: Evaluation, limits: Mapping[str, float], *, remedy: str) -> Iterator[Alarm]:
    """What is wrong with the captions of an evaluation beyond ``limits``, by the names of metrics."""
    found = evaluation.scores.values()
    truths = [words(prediction["references"][0]) for prediction in evaluation.predictions]
    silent = found["empty_captions"] > limits["empty_captions"]  # which is said below
    if found["top_caption"] > max(limits["top_caption"], 1.5 * top_share(truths)) and not silent:
        top = " ".join(top_caption([words(prediction["prediction"]) for prediction in evaluation.predictions]))
        yield Alarm(
            "one caption for everything",
            f"{found['top_caption']:.0%} of the images get the same caption, {top[:80]!r}; {remedy}",
        )
    usual = repetition(truths)
    if found["repetition"] > limits["repetition"] + usual:
        yield Alarm(
            "repetition",
            f"{found['repetition']:.0%} of the bigrams are repeats (references: {usual:.0%}); {remedy}, "
            "or decode with model.no_repeat_ngram_size=3",
        )
    if silent:
        yield Alarm(
            "empty captions",
            f"{found['empty_captions']:.0%} of the captions are empty; {remedy}",
        )
