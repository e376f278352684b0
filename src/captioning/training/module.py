"""CaptionModule: GIT as it is trained, validated by the captions that it generates, and tested."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import lightning as L
import torch
import transformers
from annotated_types import Ge, Gt, Le, Lt
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import SumMetric

from captioning.data.dataset import Batch
from captioning.errors import NotFiniteError, UserError, check_arguments, nearest
from captioning.models.decoding import Decoding
from captioning.models.feature_cache import FeatureFile
from captioning.models.generation import generate_captions
from captioning.models.git import GitForCausalLM, KVCache
from captioning.models.loading import (
    compile_layers,
    enable_gradient_checkpointing,
    freeze_vision_tower,
    init_model,
    load_model,
    model_from_config,
)
from captioning.models.lora import Lora, add_adapters
from captioning.models.loss import caption_loss
from captioning.models.processor import load_processor, processor_from_files, processor_to_files
from captioning.training.evaluator import CaptionEvaluator, Evaluation

if TYPE_CHECKING:
    from captioning.training.datamodule import CaptionDataModule

# A step returns the summed loss over this, near the size of a mean, so that fp16 gradients stay in range. A power of
# two, so that dividing by it and multiplying it back changes no digit.
LOSS_SCALE = 256.0


class Seen(NamedTuple):
    """A micro-batch of the step under way."""

    ids: list[str]
    input_ids: Tensor
    loss: Tensor  # summed over its tokens


class CaptionModule(L.LightningModule):
    """A causal language model over images and captions.

    Args:
        checkpoint: GIT to fine-tune, a Hub name or a folder; null starts from random weights.
        architecture: settings of ``transformers.GitConfig`` for a model from random weights.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices alone; biases, norms and single vectors are left as they are.
        warmup_fraction: share of the optimizer steps over which the learning rate rises from 0.
        lr_schedule: what it does after: ``linear`` or ``cosine`` decay to 0, or ``constant``.
        freeze_vision: leave the vision tower as it is. What it makes of an image is then computed once and kept on
            the disk, unless the image is another at each visit.
        lora_rank: of adapters (LoRA), which are trained in place of the weights; 0 is none. This and the next three are
            described in :class:`captioning.models.lora.Lora`. A vision tower without adapters is left as it is, too.
        lora_alpha: null is twice the rank.
        lora_dropout: of the adapters' inputs.
        lora_towers: ``text``, ``vision`` or both.
        gradient_checkpointing: less memory for more time: most of what the forward pass computes is computed again in
            the backward pass instead of being kept.
        compile: let ``torch.compile`` fuse what training computes within layers; its first step takes a while.
        **decoding: settings of :class:`captioning.models.decoding.Decoding`, such as ``max_new_tokens``.

    After a validation or a test, ``evaluations["val"]`` or ``["test"]`` holds its captions and their scores.
    """

    model: GitForCausalLM | None
    window: Tensor  # loss and tokens summed since the last optimizer step; no buffer, or DDP would overwrite it
    scale: Tensor  # from the gradients that Lightning has summed up to those of the mean over tokens
    local_flags: dict[str, bool]  # what this process asks for after a step; all processes do it if one asks

    def __init__(
        self,
        *,
        checkpoint: str | None = "microsoft/git-base",
        architecture: dict[str, Any] | None = None,
        lr: Annotated[float, Gt(0)] = 5e-5,
        weight_decay: Annotated[float, Ge(0)] = 0.01,
        warmup_fraction: Annotated[float, Ge(0), Le(1)] = 0.05,
        lr_schedule: Literal["linear", "cosine", "constant"] = "linear",
        freeze_vision: bool = False,
        lora_rank: Annotated[int, Ge(0)] = Lora.rank,
        lora_alpha: Annotated[int | None, Ge(1)] = Lora.alpha,
        lora_dropout: Annotated[float, Ge(0), Lt(1)] = Lora.dropout,
        lora_towers: tuple[str, ...] = ("text",),
        gradient_checkpointing: bool = False,
        compile: bool = False,  # noqa: A002  # as torch and Lightning have it
        **decoding: Any,
    ) -> None:
        super().__init__()
        check_arguments(type(self).__init__, locals(), section="model")
        known = {field.name for field in fields(Decoding)}
        if unknown := sorted(decoding.keys() - known):
            names = known | inspect.signature(CaptionModule).parameters.keys() - {"decoding"}
            choices = nearest(f"model.{unknown[0]}", [f"model.{name}" for name in names])
            raise UserError(f"model.{unknown[0]}={decoding[unknown[0]]}: no such setting{choices}")
        self.decoding = Decoding(**decoding)
        decoding = asdict(self.decoding)  # save_hyperparameters() reads it here: a checkpoint has all settings
        self.save_hyperparameters(logger=False)
        self.lora = Lora(**{field.name: self.hparams[f"lora_{field.name}"] for field in fields(Lora)})
        if freeze_vision and lora_rank and "vision" in lora_towers:
            raise UserError(
                f"model.freeze_vision=true leaves the vision tower as it is, and model.lora_towers={list(lora_towers)} "
                "trains adapters in it; leave one of them out"
            )
        self.model = None
        self.processor: Any = None
        # What CaptionLoss sums, over batches and processes; a sum that isn't finite stays so.
        self.total_loss, self.total_correct, self.total_tokens = (SumMetric(nan_strategy="disable") for _ in range(3))
        self.evaluator = CaptionEvaluator()
        self.evaluations: dict[str, Evaluation] = {}
        self.restored_metrics: dict[str, float] = {}  # of the last validation before the training was resumed
        self.training_captions: frozenset[str] | None = None  # normalized, once they are known
        self.features: dict[str, FeatureFile] = {}  # of splits, where the vision tower is frozen
        self.local_flags = {"stop": False, "save": False, "write_failed": False}
        self.synced_flags = dict(self.local_flags)  # of all processes, in the last step
        self.seen: list[Seen] = []

    # ------------------------------------------------------------ the network

    def load(self, processor: Any = None) -> None:
        """Load the network, or start it from random weights; done once, however often it is called.

        ``processor`` is the one that prepares the batches, by default the checkpoint's own.

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
        self._prepare(self.model)
        generation = self.model.generation_config
        if generation.bos_token_id is None:
            generation.bos_token_id = self.processor.tokenizer.cls_token_id
        tokens, positions = self.decoding.max_new_tokens, self.model.config.max_position_embeddings
        if tokens > positions:
            raise UserError(f"model.max_new_tokens={tokens}: this model has positions for {positions} tokens")

    def restore(self, checkpoint: Mapping[str, Any]) -> Any:
        """Take network and processor from a checkpoint, whose weights a Trainer loads. Returns the processor."""
        self.processor = processor_from_files(checkpoint["processor_files"])
        self.model = model_from_config(checkpoint["git_config"], checkpoint["generation_config"])
        self._prepare(self.model)
        return self.processor

    def _prepare(self, network: GitForCausalLM) -> None:
        if self.hparams["gradient_checkpointing"]:
            enable_gradient_checkpointing(network)
        if self.lora.rank:
            add_adapters(network, self.lora)
        if self.is_vision_frozen:
            freeze_vision_tower(network)
        if self.hparams["compile"]:
            compile_layers(network)

    @property
    def is_vision_frozen(self) -> bool:
        return self.hparams["freeze_vision"] or bool(self.lora.rank and "vision" not in self.lora.towers)

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        self.load(getattr(datamodule, "processor", None))
        if not hasattr(datamodule, "normalized_captions"):  # not a CaptionDataModule
            return
        data = cast("CaptionDataModule", datamodule)
        tokens, positions = data.hparams["max_caption_tokens"], self.network.config.max_position_embeddings
        if tokens > positions:
            raise UserError(f"data.max_caption_tokens={tokens}: this model has positions for {positions} tokens")
        if stage != "fit":
            return
        self.training_captions = data.normalized_captions(set(data.split_ids["train"]))
        # Divided among processes, the tower is computed by all of them at once, and not by one that lacks an image.
        if self.is_vision_frozen and not isinstance(self.trainer.strategy, ModelParallelStrategy):
            kept = ["val"] if data.augment or data.shards else ["train", "val"]
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.features = {split: FeatureFile(folder, len(data.splits[split])) for split in kept}

    def teardown(self, stage: str) -> None:
        self.features = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # With these a checkpoint is whole: it loads without the Hub, the data, or the folder that it was started from.
        checkpoint["git_config"] = self.network.config.to_dict()
        checkpoint["generation_config"] = self.network.generation_config.to_dict()
        checkpoint["metrics"] = self.validation_metrics
        checkpoint["processor_files"] = processor_to_files(self.processor)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restored_metrics = checkpoint["metrics"]
        if self._trainer is not None and not self.trainer.training:
            checkpoint["callbacks"] = {}  # a test is of the weights; what callbacks know is of all of the training
        if self.model is None:
            self.restore(checkpoint)

    @property
    def validation_metrics(self) -> dict[str, float]:
        """Of the last validation, which may be one before the training was resumed."""
        if validation := self.evaluations.get("val"):
            return {f"val/{name}": value for name, value in validation.numbers.items()}
        return self.restored_metrics

    def count_weights(self) -> tuple[int, int]:
        """Number of trained weights, and of all."""
        parameters = list(self.parameters())
        return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)

    @property
    def network(self) -> GitForCausalLM:
        if self.model is None:
            raise RuntimeError("the network isn't loaded yet: call load(), or let a Trainer do it")
        return self.model

    # ------------------------------------------------------------ training

    def on_train_start(self) -> None:
        self.window = torch.zeros(2, device=self.device)
        self.seen.clear()
        # Settings hold also where a checkpoint brought the optimizer of others; else this changes no digit.
        optimizer, scheduler = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        decays = (self.hparams["weight_decay"], 0.0)
        scheduler.base_lrs = [self.hparams["lr"]] * len(decays)
        for group, decay, factor in zip(optimizer.param_groups, decays, scheduler.lr_lambdas, strict=True):
            lr = self.hparams["lr"] * factor(scheduler.last_epoch)
            group.update(weight_decay=decay, initial_lr=self.hparams["lr"], lr=lr)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        result = caption_loss(self.network, **self._inputs(batch, "train"))
        self.window += torch.stack([result.loss.detach(), result.tokens])
        self.seen.append(Seen(batch["id"], batch["input_ids"], result.loss.detach()))
        return result.loss / LOSS_SCALE

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Find what turns summed gradients into those of the mean over every caption token that went into this step.

        A mean of means would weigh tokens by how many others their micro-batch or process happens to hold.
        """
        # The processes' flags ride along, so that they agree on them at no cost.
        local_flags = torch.tensor([float(wish) for wish in self.local_flags.values()], device=self.device)
        summed = self.trainer.strategy.reduce(torch.cat([self.window, local_flags]), reduce_op="sum")
        loss, tokens = summed[:2]
        self.synced_flags = {name: count > 0 for name, count in zip(self.local_flags, summed[2:].tolist(), strict=True)}
        if not loss.isfinite():
            raise self._not_finite("train/loss", loss / tokens)
        # What Lightning divided by on the way: accumulated micro-batches, and, in DDP's mean, processes.
        divided_by = LOSS_SCALE * self.trainer.accumulate_grad_batches * self.trainer.world_size
        self.scale = divided_by / tokens.clamp(min=1)
        self.log("train/loss", loss / tokens.clamp(min=1), prog_bar=True)
        self.log("train/lr", optimizer.param_groups[0]["lr"])
        self.window.zero_()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale and clip gradients in one pass over them, and let none that isn't finite into the weights."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if isinstance(norm, DTensor):  # of gradients that are divided among processes
            norm = norm.full_tensor()
        norm = norm * self.scale
        # A scaler of 16-mixed finds such gradients itself, leaves the step out, and scales less.
        if self._scaler is None and not norm.isfinite():
            raise self._not_finite("train/grad_norm", norm)
        self.log("train/grad_norm", norm)
        scale = self.scale
        if gradient_clip_val and gradient_clip_algorithm != "value":
            scale = scale * (gradient_clip_val / (norm + 1e-6)).clamp(max=1)  # as torch clips
        torch._foreach_mul_(gradients, scale)
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        self.seen.clear()

    def _not_finite(self, name: str, value: Tensor) -> BaseException:
        """The first process's error, with the micro-batches to blame, or all of them where that isn't known."""
        tokenizer = self.processor.tokenizer
        batches = [
            {
                "process": self.global_rank,
                "loss": str(seen.loss.item()),  # JSON knows no NaN
                "ids": seen.ids,
                "captions": tokenizer.batch_decode(seen.input_ids, skip_special_tokens=True),
            }
            for seen in self.seen
        ]
        gathered: list[Any] = [batches] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, batches)
        if self.global_rank:
            return SystemExit(1)
        every = [batch for own in gathered for batch in own]
        blamed = [batch for batch in every if not math.isfinite(float(batch["loss"]))] or every
        return NotFiniteError(name, value.item(), step=self.global_step + 1, batches=blamed, lr=self.hparams["lr"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": self.hparams["weight_decay"]},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        # Fused is one pass over weights and moments; but it undoes a scaler's factor itself, after the clipping.
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"], fused=self._scaler is None)
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

    @property
    def _scaler(self) -> Any:
        """Of losses, in 16-mixed."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _inputs(self, batch: Batch, split: str) -> dict[str, Any]:
        """The arguments of ``caption_loss``; of a frozen vision tower the features, where they are kept."""
        names = ("pixel_values", "input_ids", "attention_mask", "labels", "position_ids", "caption_index")
        inputs: dict[str, Any] = {name: batch.get(name) for name in names}
        if file := self.features.get(split):
            inputs["features"] = file.of(batch["row"], batch["pixel_values"], self.network.encode_image)
        return inputs

    # ------------------------------------------------------------ validation and test

    def on_validation_epoch_start(self) -> None:
        self.evaluator = CaptionEvaluator()
        for total in (self.total_loss, self.total_correct, self.total_tokens):
            total.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def _evaluate(self, batch: Batch, phase: str) -> None:
        """Caption the images of a batch, and find how likely the model thinks their true captions."""
        kv_cache = KVCache()
        tokenizer, synced_gpus = self.processor.tokenizer, isinstance(self, FSDPModule)
        # Each token makes the keys longer: compiled layers would be compiled again and again.
        with torch.compiler.set_stance("force_eager") if self.hparams["compile"] else nullcontext():
            result = caption_loss(self.network, **self._inputs(batch, phase), kv_cache=kv_cache)
            captions = generate_captions(self.network, tokenizer, kv_cache, self.decoding, synced_gpus=synced_gpus)
        self.evaluator.update(batch, captions)
        self.total_loss.update(result.loss)
        self.total_correct.update(result.correct)
        self.total_tokens.update(result.tokens)

    def _conclude(self, phase: str) -> None:
        tokens = self.total_tokens.compute()
        evaluation = self.evaluator.compute(
            teacher_forced={
                "loss": (self.total_loss.compute() / tokens).item(),
                "token_accuracy": (self.total_correct.compute() / tokens).item(),
            },
            world_size=self.trainer.world_size,
            training_captions=self.training_captions,
        )
        self.evaluations[phase] = evaluation
        for name, value in evaluation.numbers.items():
            self.log(f"{phase}/{name}", value, prog_bar=name in ("loss", "wer"))
