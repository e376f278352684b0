from pathlib import Path

import pytest
import torch
import transformers

from captioning.model.forward import IGNORE_INDEX, caption_loss


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()  # eval: dropout would differ


def batch_of(model, *, rows: int, length: int, padding: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, model.config.vocab_size, (rows, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if padding:
        attention_mask[0, -padding:] = 0
    return {
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=generator),
        "input_ids": input_ids.masked_fill(attention_mask == 0, model.config.pad_token_id),
        "attention_mask": attention_mask,
        "labels": input_ids.masked_fill(attention_mask == 0, IGNORE_INDEX),
    }


SHAPES = [(1, 2, 0), (1, 9, 0), (3, 9, 4), (4, 5, 3), (2, 16, 14)]


@pytest.mark.parametrize(("rows", "length", "padding"), SHAPES)
def test_the_loss_is_that_of_transformers(model, rows, length, padding):
    batch = batch_of(model, rows=rows, length=length, padding=padding, seed=length)
    ours = caption_loss(model, **batch)
    theirs = model(**batch).loss
    torch.testing.assert_close(ours.loss / ours.tokens, theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("rows", "length", "padding"), SHAPES)
def test_every_gradient_is_that_of_transformers(model, rows, length, padding):
    batch = batch_of(model, rows=rows, length=length, padding=padding, seed=length)
    ours = caption_loss(model, **batch)
    gradients = torch.autograd.grad(ours.loss / ours.tokens, list(model.parameters()), allow_unused=True)
    expected = torch.autograd.grad(model(**batch).loss, list(model.parameters()), allow_unused=True)
    for (name, _), one, other in zip(model.named_parameters(), gradients, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7, msg=name)


def test_padding_changes_neither_loss_nor_count(model):
    short = batch_of(model, rows=2, length=6, padding=0, seed=1)
    pads = torch.zeros(2, 5, dtype=torch.long)
    long = {
        "pixel_values": short["pixel_values"],
        "input_ids": torch.cat([short["input_ids"], pads + model.config.pad_token_id], dim=1),
        "attention_mask": torch.cat([short["attention_mask"], pads], dim=1),
        "labels": torch.cat([short["labels"], pads + IGNORE_INDEX], dim=1),
    }
    one, other = caption_loss(model, **short), caption_loss(model, **long)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)
    assert one.tokens == other.tokens == 2 * 5


def test_correct_tokens_are_those_with_the_largest_logit(model):
    batch = batch_of(model, rows=3, length=7, padding=2, seed=2)
    text = model(**batch).logits[:, -7:-1].argmax(-1)
    counted = batch["labels"][:, 1:] != IGNORE_INDEX
    assert caption_loss(model, **batch).correct == (text == batch["labels"][:, 1:])[counted].sum()


def test_a_row_of_ignored_labels_adds_nothing(model):
    batch = batch_of(model, rows=2, length=6, padding=0, seed=3)
    alone = caption_loss(model, **{name: tensor[:1] for name, tensor in batch.items()})
    batch["labels"][1] = IGNORE_INDEX
    both = caption_loss(model, **batch)
    torch.testing.assert_close(both.loss, alone.loss, rtol=1e-5, atol=0)
    assert both.tokens == alone.tokens


def test_a_batch_without_labels_has_a_finite_loss(model):
    batch = batch_of(model, rows=2, length=6, padding=0, seed=4)
    batch["labels"][:] = IGNORE_INDEX
    assert caption_loss(model, **batch).loss == 0
