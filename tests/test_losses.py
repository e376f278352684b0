"""The losses of fixed short runs, step by step: what moves them changes what every user's training does.

Where that is meant, say so in CHANGELOG.md, and make the file again:

    MAKE_LOSSES=1 .venv/bin/python -m pytest tests/test_losses.py
"""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from conftest import SMALL

import captioning.run

FILE = Path(__file__).parent / "fixtures" / "losses.json"
NO_DROPOUT = ("model.architecture.hidden_dropout_prob=0.0", "model.architecture.attention_probs_dropout_prob=0.0")
RUNS = {
    "one caption by chance": NO_DROPOUT,
    "all captions, windows of three": (*NO_DROPOUT, "data.captions=all", "trainer.accumulate_grad_batches=3"),
    "an average of the weights": (*NO_DROPOUT, "callbacks=ema", "callbacks.ema.decay=0.8"),
    "dropout": (),
}
# Another processor adds up in another order, and has other last digits in each step, of which the next step's loss is a
# function. With AVX-512 and without vectors, and with other kernels of MKL, losses differed by less than 3e-7.
TOLERANCE = 1e-5


def losses_of(folder: Path) -> dict[str, list[float]]:
    """Of each optimizer step, of each validation, and of the test."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("train/loss", "train/grad_norm", "val/loss")
    losses = {name: [float(row[name]) for row in rows if row.get(name)] for name in names}
    return {**losses, "test/loss": [json.loads((folder / "metrics.json").read_text())["test/loss"]]}


@pytest.mark.parametrize("name", RUNS)
def test_every_loss_of_a_fixed_run_is_what_it_was(compose, images, tmp_path, name):
    if name == "dropout" and not torch.backends.mkl.is_available():
        pytest.skip("torch draws other random numbers for dropout where it was built without MKL")
    own = [f"data.path={images}", "logger=csv", "trainer.max_epochs=3", "model.lr=0.003"]
    captioning.run.train(compose(*SMALL, *own, *RUNS[name]))
    losses = losses_of(tmp_path / "run")
    assert len(losses["val/loss"]) == 3
    assert len(losses["train/loss"]) == len(losses["train/grad_norm"]) == (6 if "three" in name else 18)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("MAKE_LOSSES"):
        FILE.write_text(json.dumps({**kept, name: losses}, indent=1) + "\n")
        return
    for kind, values in kept[name].items():
        assert losses[kind] == pytest.approx(values, rel=TOLERANCE), kind
