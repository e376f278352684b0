import json
from pathlib import Path

import pytest
from conftest import SMALL

from captioning.metrics import score
from captioning.run import train
from captioning.training.callbacks.collapse_alarm import find_collapse
from captioning.training.evaluator import Evaluation

TRUTHS = [f"a {color} {thing}" for color in ("red", "green") for thing in ("dog", "cat", "bird", "fish", "cow")]


def kinds(predictions: list[str], truths: list[str] = TRUTHS) -> list[str]:
    lines = [
        {"id": str(number), "references": [truth], "prediction": prediction}
        for number, (prediction, truth) in enumerate(zip(predictions, truths, strict=True))
    ]
    scores = score(predictions, [[truth] for truth in truths])
    evaluation = Evaluation(list(range(len(lines))), lines, scores, scores.values())
    return [alarm.kind for alarm in find_collapse(evaluation, remedy="train on")]


def test_captions_as_varied_as_their_references_give_no_alarm():
    assert kinds(TRUTHS) == []


def test_one_caption_for_six_images_of_ten_gives_an_alarm():
    assert kinds(["a dog"] * 6 + TRUTHS[6:]) == ["one caption for everything"]


def test_one_caption_is_the_same_however_it_is_written():
    written = ["A dog", "a dog.", "a dog!", "a  dog", "a DOG", "a dog?", "a cat", "a cat", "a fish", "a cow"]
    assert kinds(written) == ["one caption for everything"]


def test_one_caption_for_half_of_the_images_gives_none():
    assert kinds(["a dog"] * 5 + TRUTHS[5:]) == []


def test_one_caption_for_everything_is_right_where_the_references_are_one_too():
    assert kinds(["a dog"] * 10, ["a dog"] * 9 + ["a cat"]) == []


def test_repetition_gives_an_alarm():
    assert kinds([f"{truth} {truth} {truth}" for truth in TRUTHS]) == ["repetition"]


def test_repetition_is_right_where_the_references_repeat_too():
    truths = [f"{truth} {truth} {truth}" for truth in TRUTHS]
    assert kinds(truths, truths) == []


def test_empty_captions_give_an_alarm():
    assert kinds(["", "!", " ", *TRUTHS[3:]]) == ["empty captions"]


@pytest.fixture
def collapsed(compose, images, tmp_path, said) -> tuple[Path, str]:
    """A run whose weights are ruined, so that it says the same of every image, and what it said."""
    overrides = ["model.lr=0.5", "model.warmup_fraction=0.0"]
    splits = [
        "data.val_fraction=0.36",
        "data.test_fraction=0.36",
        "trainer.max_epochs=3",
        "trainer.gradient_clip_val=null",
    ]
    train(compose(*SMALL, f"data.path={images}", *overrides, *splits))
    return tmp_path / "run", said.text


def test_a_collapse_is_told_in_the_terminal_with_a_remedy(collapsed):
    _, said = collapsed
    assert "get the same caption" in said
    assert "model.lr=0.5" in said


def test_a_collapse_is_told_when_it_arises_and_not_again(collapsed):
    _, said = collapsed
    assert "alarm (step 3): " in said
    assert "alarm (step 6): 100% of the images get the same caption" not in said


def test_a_collapse_is_written_down_for_each_validation_and_for_the_test(collapsed):
    run, _ = collapsed
    lines = [json.loads(line) for line in (run / "alarms.jsonl").read_text().splitlines()]
    # Of one kind or another: what ruined weights say of every image may also be nothing.
    assert {(line["split"], line["step"]) for line in lines} == {("val", 3), ("val", 6), ("val", 9), ("test", None)}


def test_a_few_images_prove_nothing(compose, images, tmp_path):
    train(compose(*SMALL, f"data.path={images}", "model.lr=3.0", "model.warmup_fraction=0.0"))
    assert not (tmp_path / "run" / "alarms.jsonl").exists()
