"""GIT from a checkpoint, or from an architecture and random weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from captioning.errors import UserError, nearest, reason
from captioning.models.git import GitForCausalLM
from captioning.models.processor import PROCESSOR_FILES, checkpoint_folder

Config = Mapping[str, Any]  # as a configuration's to_dict() has it
SAFE_WEIGHTS = (*PROCESSOR_FILES, "*.safetensors")
OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")


def load_model(checkpoint: str) -> GitForCausalLM:
    """The GIT of a Hub name or local folder, in float32 and training mode; code in a checkpoint is never run.

    Raises:
        UserError: there is no such checkpoint, it isn't a GIT, it has adapters, or its files are damaged.
    """
    folder = checkpoint_folder(checkpoint, SAFE_WEIGHTS)
    if not list(folder.glob("*.safetensors")):
        folder = checkpoint_folder(checkpoint, OLD_WEIGHTS)
    if (folder / "adapter_config.json").is_file():  # transformers would leave them out, or put them in if there is peft
        raise UserError(
            f"model.checkpoint={checkpoint}: has adapters beside the model (adapter_config.json); merge them first, as "
            "`merge_and_unload` of peft does, or remove that file to train the model without them"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        is_git = config.model_type == "git" and config.num_image_with_embedding is None
        options = {"config": config, "trust_remote_code": False, "weights_only": True, "output_loading_info": True}
        if is_git:  # in float32 as master weights, which mixed precision casts for each step
            model, report = GitForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise UserError(f"model.checkpoint={checkpoint}: can't be loaded ({reason(error)})") from error
    if not is_git:
        kind = "GIT for video" if config.model_type == "git" else f"{config.model_type!r} model"
        raise UserError(
            f"model.checkpoint={checkpoint} is a {kind}; this project trains GIT for images, such as "
            "microsoft/git-base or a folder that a run left in its model/"
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"model.checkpoint={checkpoint}: {len(missing)} of its weights are missing, {missing[0]} first; "
            "training would start from random values there"
        )
    model.train()  # from_pretrained leaves eval mode, which Lightning keeps: dropout would be off for the whole run
    return cast("GitForCausalLM", model)


def init_model(architecture: Config, *, processor: transformers.ProcessorMixin) -> GitForCausalLM:
    """A GIT with random weights that fits ``processor``: its vocabulary, special tokens and image size.

    ``architecture`` is settings of ``transformers.GitConfig``, with ``vision_config`` within. A ``vocab_size`` larger
    than the tokenizer's is kept.

    Raises:
        UserError: a setting that GIT doesn't have, or one that contradicts the processor.
    """
    tokenizer = processor.tokenizer
    image_size = processor.image_processor.crop_size["height"]
    settings = dict(architecture)
    vision = {"image_size": image_size, **settings.pop("vision_config", {})}
    for where, given, default in (
        ("model.architecture", settings, transformers.GitConfig()),
        ("model.architecture.vision_config", vision, transformers.GitVisionConfig()),
    ):
        known = [name for name in vars(default) if not name.startswith("_")]
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"{where}.{unknown[0]}: GIT has no such setting{nearest(unknown[0], known)}")
    if vision["image_size"] != image_size or image_size % vision.get("patch_size", 16):
        raise UserError(
            f"model.architecture.vision_config.image_size={vision['image_size']} must equal the processor's "
            f"{image_size} and be a multiple of patch_size={vision.get('patch_size', 16)}"
        )
    settings["vocab_size"] = max(settings.get("vocab_size", 0), len(tokenizer))
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    try:
        return GitForCausalLM(transformers.GitConfig(**settings, **special, vision_config=vision))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"model.architecture: {' '.join(str(error).split())}") from error


def model_from_config(config: Config, generation_config: Config) -> GitForCausalLM:
    """A GIT as the ``to_dict()`` of its two configurations describes it, its weights yet to be loaded."""
    model = GitForCausalLM(transformers.GitConfig.from_dict(dict(config)))
    model.generation_config = transformers.GenerationConfig.from_dict(dict(generation_config))
    return model


def enable_gradient_checkpointing(model: GitForCausalLM) -> None:
    """Keep only each layer's input for the backward pass, in both towers. Gradients are the same, with dropout too."""
    # The other kind needs an input with a gradient, and the images have none.
    model.activation_checkpointing_enable({"use_reentrant": False})
    # transformers prepares for it nonetheless, with gradients for the embedded text, to which GIT adds its positions in
    # place: where the embeddings are frozen, autograd refuses that.
    model.disable_input_require_grads()


def compile_layers(model: GitForCausalLM) -> None:
    """Compile the layers of both towers at the first step; a ``UserError`` without a C++ compiler.

    Once for all lengths of captions: results don't depend on which lengths came before, and a resumed run is exact.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
        raise UserError(
            "model.compile=true: needs a C++ compiler, and neither g++ nor clang++ is on the PATH (Debian, Ubuntu: "
            "apt-get install g++); CXX names another"
        )
    for layer in (*model.git.encoder.layer, *model.git.image_encoder.vision_model.encoder.layers):
        layer.compile(dynamic=True, fullgraph=True)


def freeze_vision_tower(model: GitForCausalLM) -> None:
    """Train no weight of the vision tower."""
    model.git.image_encoder.requires_grad_(False).eval()
