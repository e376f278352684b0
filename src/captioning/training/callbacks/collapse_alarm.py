"""An alarm when the model says the same of every image, repeats itself, or says nothing."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import lightning as L

from captioning.metrics.collapse import repeated_bigrams
from captioning.metrics.corpus import words
from captioning.runs.run_folder import RunFolder
from captioning.training.callbacks.wandb_logger import wandb_loggers
from captioning.training.evaluator import Evaluation

if TYPE_CHECKING:
    from captioning.training.module import CaptionModule

_log = logging.getLogger(__name__)

TOP_CAPTION = 0.5  # share of images with the same caption; and 1.5 times that of the references, above which it alarms
REPETITION = 0.2  # share of bigrams that are repeats, more than in the references
EMPTY_CAPTIONS = 0.2  # share of captions without a word
MIN_IMAGES = 10  # fewer prove nothing


class Alarm(NamedTuple):
    """What went wrong, and a line that names the likely cause and what to do."""

    kind: str
    message: str


class CollapseAlarm(L.Callback):
    """Compares the variety of generated captions with that of their references after each validation and test.

    An alarm is given once when it arises, in the terminal and to wandb, and its end is logged too; ``alarms.jsonl`` has
    a line for each validation and test at which it held. A model from random weights gives one early and outgrows it.
    """

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []
        self._raised: dict[str, set[str]] = {"val": set(), "test": set()}

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines, "raised": sorted(self._raised["val"])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines, self._raised["val"] = state_dict["lines"], set(state_dict["raised"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._check(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module, "test")

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule, phase: str) -> None:
        pl_module = cast("CaptionModule", pl_module)
        evaluation = pl_module.evaluations[phase]
        if not trainer.is_global_zero or len(evaluation.predictions) < MIN_IMAGES:
            return
        # The test is of the best checkpoint, whose step isn't the trainer's.
        step, where = (trainer.global_step, f"step {trainer.global_step}") if phase == "val" else (None, "test")
        lr = pl_module.hparams["lr"]
        if not trainer.global_step:
            remedy = "look at how this model was trained, and at what its processor expects"
        elif pl_module.hparams["checkpoint"] is not None:
            remedy = f"model.lr={lr:g} is likely too high for this checkpoint and data: try model.lr={lr / 5:.0e}"
        elif phase == "val":
            start = "a model from random weights starts like this; if it lasts"
            remedy = f"{start}, train longer, or with less than model.lr={lr:g}"
        else:
            later = "a later checkpoint may not: `captioning evaluate RUN/checkpoints/last.ckpt`"
            remedy = f"{later}; else take another monitor, train longer, or with less than model.lr={lr:g}"
        alarms = list(find_collapse(evaluation, remedy=remedy))
        raised, self._raised[phase] = self._raised[phase], {alarm.kind for alarm in alarms}
        for kind in raised - self._raised[phase]:
            _log.info(f"{where}: the captions have recovered from {kind}")
        for alarm in alarms:
            self.lines.append({"step": step, "split": phase, **alarm._asdict()})
            if alarm.kind not in raised:
                _log.warning(f"alarm ({where}): {alarm.message}")
                for tracker in wandb_loggers(trainer):
                    tracker.experiment.alert(f"captions collapse: {alarm.kind}", alarm.message, level="WARN")
        if alarms:
            RunFolder(trainer.default_root_dir).write_json_lines("alarms.jsonl", self.lines)


def find_collapse(evaluation: Evaluation, *, remedy: str) -> Iterator[Alarm]:
    """What is wrong with the captions of an evaluation."""
    found = evaluation.scores.values()
    references = [words(prediction["references"][0]) for prediction in evaluation.predictions]
    is_silent = found["empty_captions"] > EMPTY_CAPTIONS
    usual_share = max(Counter(references).values()) / len(references)
    if found["top_caption"] > max(TOP_CAPTION, 1.5 * usual_share) and not is_silent:
        index = int(evaluation.scores.of_images("top_caption").argmax())
        top = " ".join(words(evaluation.predictions[index]["prediction"]))
        message = f"{found['top_caption']:.0%} of the images get the same caption, {top[:80]!r}; {remedy}"
        yield Alarm("one caption for everything", message)
    repeated, bigrams = map(sum, zip(*map(repeated_bigrams, references), strict=True))
    usual = repeated / max(bigrams, 1)
    if found["repetition"] > REPETITION + usual:
        message = f"{found['repetition']:.0%} of the bigrams are repeats (references: {usual:.0%}); {remedy}"
        yield Alarm("repetition", f"{message}, or decode with model.no_repeat_ngram_size=3")
    if is_silent:
        yield Alarm("empty captions", f"{found['empty_captions']:.0%} of the captions are empty; {remedy}")
