"""The captions that the test generates."""

from typing import Any, TypedDict

import lightning as L
import torch.distributed

from captioning.data.batches import Batch


class Prediction(TypedDict):
    """A line of ``predictions.jsonl``."""

    id: str
    references: list[str]
    prediction: str


class TestPredictions(L.Callback):
    """Keeps each test picture's caption, in the order of the data, on every process once the test has ended."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []
        self._of_this_process: list[tuple[int, Prediction]] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._of_this_process = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for row, caption in enumerate(outputs["predictions"]):
            if batch["counts"][row]:
                prediction = Prediction(id=batch["id"][row], references=batch["references"][row], prediction=caption)
                self._of_this_process.append((batch["row"][row], prediction))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts = [self._of_this_process]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._of_this_process)
        numbered = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
        self.predictions = [prediction for _, prediction in numbered]
