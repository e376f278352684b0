"""The GIT processor: a checkpoint's own, or one made for a model that is trained from scratch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import transformers
from tokenizers import BertWordPieceTokenizer
from transformers.image_utils import SizeDict

from captioning.errors import UserError, reason
from captioning.hub import snapshot

# Pinned, because transformers prefers torchvision where it is installed, and its pixels differ slightly.
IMAGE_BACKEND = "pil"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PROCESSOR_FILES = ("*.json", "*.txt")
NO_HUB_NEEDED = (
    "Without the Hub: experiment=quickstart trains a small GIT from scratch, model.checkpoint=FOLDER takes "
    "a checkpoint folder on this machine, and model.checkpoint=null starts from random weights"
)


def load_processor(checkpoint: str) -> transformers.ProcessorMixin:
    """The processor of a Hub name or local folder; a ``UserError`` where there is none, or it is damaged."""
    folder = checkpoint_folder(checkpoint, PROCESSOR_FILES)
    try:
        processor = transformers.AutoProcessor.from_pretrained(
            str(folder), backend=IMAGE_BACKEND, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # for a damaged file, transformers and tokenizers raise nearly anything
        raise UserError(
            f"model.checkpoint={checkpoint}: its processor can't be loaded ({reason(error)}). A checkpoint needs "
            "tokenizer and image processor files beside its weights; `AutoProcessor.from_pretrained(ORIGINAL)"
            f".save_pretrained({str(folder)!r})` adds them"
        ) from error
    for part in ("tokenizer", "image_processor"):
        if not hasattr(processor, part):
            raise UserError(
                f"model.checkpoint={checkpoint}: its processor is a {type(processor).__name__} without {part}; "
                "captioning needs a processor with both a tokenizer and an image processor"
            )
    # Without its vocabulary file a tokenizer loads all the same, and takes every word for [UNK].
    if len(processor.tokenizer) <= len(processor.tokenizer.all_special_ids) or processor.tokenizer.pad_token is None:
        raise UserError(
            f"model.checkpoint={checkpoint}: its tokenizer has no words or no padding token; tokenizer.json (or "
            "vocab.txt) and tokenizer_config.json belong beside the weights"
        )
    return processor


def checkpoint_folder(checkpoint: str, patterns: Iterable[str]) -> Path:
    """The local folder of a checkpoint; from the Hub, only the files that match ``patterns`` are fetched."""
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"model.checkpoint={checkpoint} is a file; a checkpoint is a folder or a Hub name USER/NAME")
    return snapshot(checkpoint, setting="model.checkpoint", allow_patterns=list(patterns), way_out=NO_HUB_NEEDED)


def make_image_processor(image_size: int) -> transformers.CLIPImageProcessorPil:
    """The image processor of a model from scratch, as GIT's own is."""
    square = {"height": image_size, "width": image_size}
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square)


def fit_images(image_processor: transformers.BaseImageProcessor, fit: str | None) -> None:
    """Set how images that aren't square are resized: center-cropped, with black bars, or squashed; None is as it is."""
    if fit is None:
        return
    height, width = image_processor.crop_size["height"], image_processor.crop_size["width"]
    sizes = {
        "crop": {"shortest_edge": max(height, width)},
        "pad": {"max_height": height, "max_width": width},
        "squash": {"height": height, "width": width},
    }
    image_processor.size = SizeDict(**sizes[fit])
    image_processor.do_resize = image_processor.do_center_crop = True  # to a square, its own size is no change


def make_processor(
    captions: Iterable[str], *, image_size: int, max_caption_tokens: int, vocab_size: int = 30522
) -> transformers.GitProcessor:
    """A processor for a model from scratch: uncased WordPiece learned from ``captions``, as GIT's own is."""
    captions = list(captions)
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    characters = sorted({c for caption in captions for c in wordpiece.normalize(caption) if not c.isspace()})
    # The characters are given numbers here. The trainer would number them in the order of a hash map and settle ties
    # by number: every process would learn another vocabulary from the same captions.
    first = [*SPECIAL_TOKENS, *characters, *(f"##{c}" for c in characters)]
    wordpiece.train_from_iterator(
        captions, vocab_size=vocab_size, min_frequency=1, special_tokens=first, show_progress=False
    )
    tokenizer = transformers.BertTokenizer(vocab=wordpiece.get_vocab(), model_max_length=max_caption_tokens)
    return transformers.GitProcessor(make_image_processor(image_size), tokenizer)


def processor_to_files(processor: transformers.ProcessorMixin) -> dict[str, str]:
    """The processor as file names and their text, so that a Lightning checkpoint can carry it."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}


def processor_from_files(files: Mapping[str, str]) -> transformers.ProcessorMixin:
    """The processor that :func:`processor_to_files` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, Path(name).name).write_text(text, encoding="utf-8")
        return load_processor(folder)
