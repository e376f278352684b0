from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.data.packing import pack
from captioning.models.generation import prefill
from captioning.models.git import KVCache
from captioning.models.loading import load_model
from captioning.models.loss import IGNORE_INDEX, CaptionLoss, caption_attention_mask, caption_loss


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    return load_model(str(checkpoint)).eval()  # eval: dropout would differ


@pytest.fixture(scope="module")
def reference(checkpoint: Path):
    return transformers.GitForCausalLM.from_pretrained(checkpoint).eval()


def batch_of(model, *, lengths: list[int], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    input_ids = torch.randint(5, model.config.vocab_size, attention_mask.shape, generator=generator)
    return {
        "pixel_values": torch.randn(len(lengths), 3, 32, 32, generator=generator),
        "input_ids": input_ids.masked_fill(attention_mask == 0, model.config.pad_token_id),
        "attention_mask": attention_mask,
        "labels": input_ids.masked_fill(attention_mask == 0, IGNORE_INDEX),
    }


BATCHES = st.builds(
    dict, lengths=st.lists(st.integers(2, 24), min_size=1, max_size=5), seed=st.integers(0, 2**16)
)  # tokens of each caption, padded to the longest


@pytest.fixture(scope="module", params=["as it was made", "saved and loaded"])
def pair(request, lively, tmp_path_factory):
    """Our model and transformers', of the same weights."""
    folder = tmp_path_factory.mktemp("saved")
    lively.save_pretrained(folder)
    ours = lively if request.param == "as it was made" else load_model(str(folder)).eval()
    return ours, transformers.GitForCausalLM.from_pretrained(folder).eval()


@settings(max_examples=25, deadline=None)
@given(batch=BATCHES)
def test_the_loss_is_that_of_transformers(pair, batch):
    model, reference = pair
    batch = batch_of(model, **batch)
    with torch.no_grad():
        ours, theirs = caption_loss(model, **batch), reference(**batch).loss
    torch.testing.assert_close(ours.loss / ours.tokens, theirs, rtol=1e-5, atol=0)


@settings(max_examples=25, deadline=None)
@given(batch=BATCHES)
def test_every_gradient_is_that_of_transformers(pair, batch):
    model, reference = pair
    batch = batch_of(model, **batch)
    loss = caption_loss(model, **batch)
    assert_equal_gradients(
        gradients_of(model, loss.loss / loss.tokens), gradients_of(reference, reference(**batch).loss)
    )


def test_padding_changes_neither_loss_nor_count(model):
    short = batch_of(model, lengths=[6] * 2, seed=1)
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


def test_correct_tokens_are_those_with_the_largest_logit(model, reference):
    batch = batch_of(model, lengths=[5, 7, 7], seed=2)
    text = reference(**batch).logits[:, -7:-1].argmax(-1)
    counted = batch["labels"][:, 1:] != IGNORE_INDEX
    assert caption_loss(model, **batch).correct == (text == batch["labels"][:, 1:])[counted].sum()


def test_a_row_of_ignored_labels_adds_nothing(model):
    batch = batch_of(model, lengths=[6] * 2, seed=3)
    alone = caption_loss(model, **{name: tensor[:1] for name, tensor in batch.items()})
    batch["labels"][1] = IGNORE_INDEX
    both = caption_loss(model, **batch)
    torch.testing.assert_close(both.loss, alone.loss, rtol=1e-5, atol=0)
    assert both.tokens == alone.tokens


def test_a_batch_without_labels_has_a_finite_loss(model):
    batch = batch_of(model, lengths=[6] * 2, seed=4)
    batch["labels"][:] = IGNORE_INDEX
    assert caption_loss(model, **batch).loss == 0


# ---------------------------------------------------------------- packed captions

WORDS = ["a", "red", "green", "blue", "yellow", "square", "on"]
CAPTION = st.lists(st.sampled_from(WORDS), min_size=1, max_size=10).map(" ".join)
IMAGES = st.lists(st.lists(CAPTION, min_size=1, max_size=7), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path):
    return transformers.AutoProcessor.from_pretrained(checkpoint).tokenizer


@pytest.fixture(scope="module")
def lively(checkpoint: Path):
    """Weights larger than those that training starts from, so that every attention matters."""
    model = load_model(str(checkpoint)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.2, generator=generator)
    return model


def images_of(number: int) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(number))


def packed(tokenizer, captions_of_each_image: list[list[str]], *, is_padding=None, longest=32):
    is_padding = is_padding or [False] * len(captions_of_each_image)
    text = pack(captions_of_each_image, tokenizer, max_caption_tokens=longest, is_padding=is_padding)
    return {"pixel_values": images_of(len(is_padding)), **text}


def separate(tokenizer, captions_of_each_image: list[list[str]], *, longest=32):
    """A batch for each caption: nothing but itself and its image."""
    images = images_of(len(captions_of_each_image))
    for image, captions in zip(images, captions_of_each_image, strict=True):
        for caption in captions:
            text = tokenizer(
                [caption], truncation=True, max_length=longest, return_token_type_ids=False, return_tensors="pt"
            )
            yield {"pixel_values": image[None], **text, "labels": text["input_ids"]}


def sums_over(model, batches) -> CaptionLoss:
    return CaptionLoss(*map(sum, zip(*(caption_loss(model, **batch) for batch in batches), strict=True)))


def gradients_of(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def assert_equal_gradients(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        # A key's bias adds the same to all scores that a softmax compares: its gradient is nothing but rounding.
        scale = expected[name.replace("key.bias", "query.bias").replace("k_proj.bias", "q_proj.bias")].norm()
        assert (ours[name] - gradient).norm() <= 1e-5 * scale, name


@settings(max_examples=40, deadline=None, derandomize=True)  # rounding may decide between two logits
@given(captions=IMAGES, longest=st.integers(3, 16))
def test_packed_captions_sum_to_what_separate_passes_sum_to(lively, tokenizer, captions, longest):
    with torch.no_grad():
        together = caption_loss(lively, **packed(tokenizer, captions, longest=longest))
        apart = sums_over(lively, separate(tokenizer, captions, longest=longest))
    torch.testing.assert_close(together.loss, apart.loss, rtol=1e-5, atol=0)
    assert (together.correct, together.tokens) == (apart.correct, apart.tokens)


@settings(max_examples=20, deadline=None)
@given(captions=IMAGES)
def test_every_gradient_of_packed_captions_is_that_of_separate_passes(lively, tokenizer, captions):
    ours = gradients_of(lively, caption_loss(lively, **packed(tokenizer, captions)).loss)
    assert_equal_gradients(ours, gradients_of(lively, sums_over(lively, separate(tokenizer, captions)).loss))


def test_a_caption_does_not_see_the_others_of_its_image(lively, tokenizer):
    losses = []
    for other in ("a red square", "on on on on blue", "yellow"):
        batch = packed(tokenizer, [[other, "a green square on blue", other]])
        batch["labels"][batch["caption_index"] != 1] = IGNORE_INDEX
        losses.append(caption_loss(lively, **batch).loss)
    torch.testing.assert_close(losses, [losses[0]] * 3, rtol=1e-5, atol=0)


def test_a_token_does_not_see_the_next(lively, tokenizer):
    one = packed(tokenizer, [["red", "a green square on blue"]])
    other = packed(tokenizer, [["red", "a green square red yellow"]])
    until = 3 + 4  # all of the first caption; start, "a", "green", "square" of the second
    assert torch.equal(one["input_ids"][:, :until], other["input_ids"][:, :until])
    losses = []
    for batch in (one, other):
        batch["labels"][:, until:] = IGNORE_INDEX
        losses.append(caption_loss(lively, **batch).loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_packed_captions_see_what_they_have_said_and_padding_is_not_seen():
    seen = caption_attention_mask(torch.tensor([[1, 1, 1, 1, 0]]), torch.tensor([[0, 0, 1, 1, -1]]))
    assert seen.int().tolist() == [
        [
            [
                [1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [0, 0, 1, 0, 0],
                [0, 0, 1, 1, 0],
                [0, 0, 0, 0, 0],
            ]
        ]
    ]


def test_a_padding_sample_adds_nothing_to_packed_captions(lively, tokenizer):
    captions = [["a red square", "red on blue"], ["a green square", "green", "green on blue"]]
    both = caption_loss(lively, **packed(tokenizer, captions, is_padding=[False, True]))
    batch = {name: tensor[:1] for name, tensor in packed(tokenizer, captions).items()}
    alone = caption_loss(lively, **batch)
    torch.testing.assert_close(both.loss, alone.loss, rtol=1e-5, atol=0)
    assert (both.correct, both.tokens) == (alone.correct, alone.tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packed_captions_train_under_autocast(lively, tokenizer, dtype):
    with torch.autocast("cpu", dtype=dtype):
        loss = caption_loss(lively, **packed(tokenizer, [["a red square", "red on blue"], ["green"]])).loss
    assert all(gradient.isfinite().all() for gradient in gradients_of(lively, loss).values())


def test_packed_captions_train_with_weights_of_16_bits(checkpoint, tokenizer):
    model = load_model(str(checkpoint)).to(torch.bfloat16).eval()
    loss = caption_loss(model, **packed(tokenizer, [["a red square", "red on blue"], ["green"]])).loss
    assert all(gradient.isfinite().all() for gradient in gradients_of(model, loss).values())


def test_under_autocast_packed_and_separate_captions_are_equal_but_for_rounding(lively, tokenizer):
    captions = [["a red square", "red on blue"], ["green"]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = caption_loss(lively, **packed(tokenizer, captions)).loss
        apart = sums_over(lively, separate(tokenizer, captions)).loss
    torch.testing.assert_close(together, apart, rtol=0.01, atol=0)


@torch.inference_mode()
def test_the_images_of_packed_captions_are_kept_as_those_of_any(lively, tokenizer):
    kept = KVCache()
    batch = packed(tokenizer, [["a red square", "red on blue"], ["green"]])
    caption_loss(lively, **batch, kv_cache=kept)
    for ours, expected in zip(kept.images, prefill(lively, batch["pixel_values"]).images, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["position_ids", "caption_index"])
def test_half_of_what_packed_captions_need_is_refused(model, tokenizer, name):
    batch = packed(tokenizer, [["a red square", "red on blue"]])
    del batch[name]
    with pytest.raises(ValueError, match="position_ids and caption_index"):
        caption_loss(model, **batch)
