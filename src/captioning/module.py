"""CaptionModule: GIT as it is trained, validated by the captions that it generates, and tested."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import transformers
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from captioning.data.batches import Batch
from captioning.errors import UserError, nearest
from captioning.metrics import CharErrorRate, WordErrorRate
from captioning.model.forward import CaptionLoss, caption_loss
from captioning.model.generation import generate_captions
from captioning.model.loading import init_model, load_model, model_from_config
from captioning.processor import load_processor, processor_from_files, processor_to_files

LR_SCHEDULES = ("linear", "cosine", "constant")
# A step returns the summed loss over this, near the size of a mean, so that fp16 gradients stay in range. A power of
# two, so that dividing by it and multiplying it back changes no digit.
LOSS_SCALE = 256.0


class CaptionModule(L.LightningModule):
    """A causal language model over pictures and captions.

    Args:
        checkpoint: GIT to fine-tune, a Hub name or a folder; null starts from random weights.
        architecture: settings of ``transformers.GitConfig`` for a model from random weights.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices alone; biases, norms and single vectors are left as they are.
        warmup_fraction: share of the optimizer steps over which the learning rate rises from 0.
        lr_schedule: what it does after: ``linear`` or ``cosine`` decay to 0, or ``constant``.
        max_new_tokens: longest generated caption, in tokens.
        num_beams: beams of the captions that are judged; 1 is greedy.
    """

    model: transformers.GitForCausalLM | None
    window: Tensor  # loss and tokens summed since the last optimizer step; no buffer, or DDP would overwrite it

    def __init__(
        self,
        *,
        checkpoint: str | None = "microsoft/git-base",
        architecture: dict[str, Any] | None = None,
        lr: float = 5e-5,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.05,
        lr_schedule: str = "linear",
        max_new_tokens: int = 32,
        num_beams: int = 1,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise UserError(f"model.lr must be above 0, got {lr}")
        if weight_decay < 0:
            raise UserError(f"model.weight_decay must be 0 or more, got {weight_decay}")
        if not 0 <= warmup_fraction <= 1:
            raise UserError(f"model.warmup_fraction is a share of the steps, between 0 and 1, got {warmup_fraction}")
        if lr_schedule not in LR_SCHEDULES:
            raise UserError(
                f"model.lr_schedule={lr_schedule}: no such schedule{nearest(lr_schedule, list(LR_SCHEDULES))}"
            )
        if max_new_tokens < 1 or num_beams < 1:
            raise UserError(
                f"model.max_new_tokens and model.num_beams must be at least 1, got {max_new_tokens} and {num_beams}"
            )
        self.save_hyperparameters(logger=False)
        self.model = None
        self.processor: Any = None
        self.metrics = nn.ModuleDict({phase: _metrics() for phase in ("val", "test")})

    # ------------------------------------------------------------ the network

    def load(self, processor: Any = None) -> None:
        """Load the network, or start it from random weights; done once, however often it is called.

        Args:
            processor: the one that prepares the batches; by default the checkpoint's own.

        Raises:
            UserError: the checkpoint or the architecture can't be used.
        """
        if self.model is not None:
            return
        checkpoint = self.hparams["checkpoint"]
        if checkpoint is not None:
            self.processor = processor or load_processor(checkpoint)
            self.model = load_model(checkpoint)
        elif processor is not None:
            self.processor = processor
            self.model = init_model(self.hparams["architecture"] or {}, processor=processor)
        else:
            raise UserError("model.checkpoint=null starts from random weights and needs a processor: load(processor)")

    def setup(self, stage: str) -> None:
        self.load(getattr(getattr(self.trainer, "datamodule", None), "processor", None))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # With these a checkpoint is whole: it loads without the Hub, the data, or the folder that it was started from.
        checkpoint["git_config"] = self.network.config.to_dict()
        checkpoint["generation_config"] = self.network.generation_config.to_dict()
        checkpoint["metrics"] = {
            name: value.item() for name, value in self.trainer.callback_metrics.items() if name.startswith("val/")
        }
        checkpoint["processor_files"] = processor_to_files(self.processor)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.model is None:
            self.processor = processor_from_files(checkpoint["processor_files"])
            self.model = model_from_config(checkpoint["git_config"], checkpoint["generation_config"])

    @property
    def network(self) -> transformers.GitForCausalLM:
        """The GIT itself."""
        if self.model is None:
            raise RuntimeError("the network isn't loaded yet: call load(), or let a Trainer do it")
        return self.model

    # ------------------------------------------------------------ training

    def on_train_start(self) -> None:
        self.window = torch.zeros(2, device=self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        result = self._loss(batch)
        self.window += torch.stack([result.loss.detach(), result.tokens])
        return result.loss / LOSS_SCALE

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn summed gradients into those of the mean over every caption token that went into this step.

        A mean of means would weigh tokens by how many others their micro-batch or process happens to hold. So the sum
        is divided once, by the tokens of all accumulated micro-batches of all processes.
        """
        loss, tokens = self.trainer.strategy.reduce(self.window.clone(), reduce_op="sum")
        # What Lightning divided by on the way: accumulated micro-batches, and, in DDP's mean, processes.
        divided_by = LOSS_SCALE * self.trainer.accumulate_grad_batches * self.trainer.world_size
        scale = divided_by / tokens.clamp(min=1)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self.log("train/loss", loss / tokens.clamp(min=1), prog_bar=True)
        self.log("train/lr", optimizer.param_groups[0]["lr"])
        self.window.zero_()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": self.hparams["weight_decay"]},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"])
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            if self.hparams["lr_schedule"] != "constant":
                raise UserError(
                    f"model.lr_schedule={self.hparams['lr_schedule']} needs to know when training ends: set "
                    "trainer.max_epochs or trainer.max_steps, or model.lr_schedule=constant"
                )
            steps = 0
        name = "constant_with_warmup" if self.hparams["lr_schedule"] == "constant" else self.hparams["lr_schedule"]
        scheduler = transformers.get_scheduler(
            name,
            optimizer,
            num_warmup_steps=round(self.hparams["warmup_fraction"] * steps),
            num_training_steps=int(steps),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _loss(self, batch: Batch) -> CaptionLoss:
        return caption_loss(
            self.network,
            pixel_values=batch["pixel_values"],
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
        )

    # ------------------------------------------------------------ validation and test

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[str]]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[str]]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, phase: str) -> dict[str, list[str]]:
        """Judge the model on a batch, and return the captions that it generates, one for each picture."""
        result = self._loss(batch)
        predictions = generate_captions(
            self.network,
            self.processor.tokenizer,
            batch["pixel_values"],
            max_new_tokens=self.hparams["max_new_tokens"],
            num_beams=self.hparams["num_beams"],
        )
        counted = [row for row, counts in enumerate(batch["counts"]) if counts]
        metrics: Any = self.metrics[phase]
        if counted:  # a process whose only row is a filler has nothing to add
            metrics["loss"].update(result.loss / result.tokens, weight=result.tokens)
            metrics["token_accuracy"].update(result.correct / result.tokens, weight=result.tokens)
            for name in ("wer", "cer"):
                metrics[name].update(
                    [predictions[row] for row in counted], [batch["references"][row] for row in counted]
                )
        for name, metric in metrics.items():  # Lightning sums over processes, divides and resets when the epoch ends
            self.log(f"{phase}/{name}", metric, prog_bar=name in ("loss", "wer"), on_epoch=True)
        return {"predictions": predictions}


def _metrics() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"loss": MeanMetric(), "token_accuracy": MeanMetric(), "wer": WordErrorRate(), "cer": CharErrorRate()}
    )
