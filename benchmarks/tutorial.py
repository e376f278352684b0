"""Hugging Face's image captioning tutorial as it stands, on a checkpoint and images that are here, by the clock.

    python benchmarks/tutorial.py CHECKPOINT IMAGES OUTPUT

CHECKPOINT is a folder with a GIT and its processor; IMAGES one with images and their metadata.jsonl. OUTPUT gets
the tutorial's checkpoints, and figures.json. It needs accelerate, which `transformers.Trainer` is built on.

What differs from the tutorial: the numbers that are arguments here, jiwer itself in place of `evaluate.load("wer")`,
which is jiwer inside but comes from the Hub, and nothing is pushed there. Its evaluation judges by the logits for every
position of image and text, padding included; captions are generated for the test images in the end alone, one at a
time, as its inference does.

--precision fp16 is the tutorial's own `fp16=True`. On a CPU that changes nothing, and nothing says so: accelerate 1.15
leaves its mixed precision off there (`native_amp` is false), and all is computed in 32 bits.
"""

import argparse
from pathlib import Path
from typing import Any

import jiwer
from datasets import load_dataset
from measuring import Record
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainerCallback, TrainingArguments


class Clock(TrainerCallback):
    """Writes down the steps.

    Args:
        record: to write to.
        images: of an epoch.
        window: images of an optimizer step.
    """

    def __init__(self, record: Record, *, images: int, window: int) -> None:
        self.record = record
        self.windows = [min(window, images - start) for start in range(0, images, window)]

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.record.begin_epoch()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        self.record.end_step(self.windows[(state.global_step - 1) % len(self.windows)])

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.record.pause()


def main() -> None:
    """Train, caption the test images, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--every", type=int, default=50, help="optimizer steps between evaluations")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    for folder, file in ((arguments.checkpoint, "config.json"), (arguments.images, "metadata.jsonl")):
        if not (folder / file).is_file():
            parser.error(f"{folder} has no {file}")
    record = Record(arguments.device)
    follow(arguments, record)
    record.write(arguments.output / "figures.json")


def follow(arguments: argparse.Namespace, record: Record) -> None:
    """The tutorial, from its data to its inference."""
    ds = load_dataset("imagefolder", data_dir=str(arguments.images))
    ds = ds["train"].train_test_split(test_size=0.1, seed=arguments.seed)
    train_ds, test_ds = ds["train"], ds["test"]
    test_images = test_ds.with_format(None)  # a copy: the other is transformed below
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)

    def transforms(example_batch: dict[str, Any]) -> Any:
        images = [x for x in example_batch["image"]]  # noqa: C416  as it stands there
        captions = [x for x in example_batch["text"]]  # noqa: C416
        inputs = processor(images=images, text=captions, padding="max_length")
        inputs.update({"labels": inputs["input_ids"]})
        return inputs

    train_ds.set_transform(transforms)
    test_ds.set_transform(transforms)
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint)

    def compute_metrics(eval_pred: Any) -> dict[str, float]:
        logits, labels = eval_pred
        predicted = logits.argmax(-1)
        decoded_labels = processor.batch_decode(labels, skip_special_tokens=True)
        decoded_predictions = processor.batch_decode(predicted, skip_special_tokens=True)
        return {"wer_score": jiwer.wer(decoded_labels, decoded_predictions)}

    training_args = settings(arguments)
    window = arguments.batch_size * training_args.gradient_accumulation_steps
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_ds,
        eval_dataset=test_ds,
        compute_metrics=compute_metrics,
        callbacks=[Clock(record, images=len(train_ds), window=window)],
    )
    trainer.train()
    evaluated = [line["eval_runtime"] for line in trainer.state.log_history if "eval_runtime" in line]
    record.evaluations = [(seconds, len(test_ds)) for seconds in evaluated]
    began = record.now()
    for example in test_images:
        pixel_values = processor(images=example["image"], return_tensors="pt").to(model.device).pixel_values
        generated_ids = model.generate(pixel_values=pixel_values, max_length=50)
        processor.batch_decode(generated_ids, skip_special_tokens=True)
    record.captioning = (record.now() - began, len(test_ds))


def settings(arguments: argparse.Namespace) -> TrainingArguments:
    """The tutorial's, with the numbers given."""
    return TrainingArguments(
        output_dir=str(arguments.output),
        learning_rate=5e-5,
        num_train_epochs=arguments.epochs,
        fp16=arguments.precision == "fp16",
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=arguments.batch_size,
        gradient_accumulation_steps=2,
        save_total_limit=3,
        eval_strategy="steps",
        eval_steps=arguments.every,
        save_strategy="steps",
        save_steps=arguments.every,
        logging_steps=arguments.every,
        remove_unused_columns=False,
        push_to_hub=False,
        label_names=["labels"],
        load_best_model_at_end=True,
        report_to="none",
        seed=arguments.seed,
        use_cpu=arguments.device == "cpu",
    )


if __name__ == "__main__":
    main()
