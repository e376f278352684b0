import copy
from pathlib import Path

import pytest
import torch
import transformers

from captioning.errors import UserError
from captioning.models.decoding import Decoding
from captioning.models.generation import generate_captions, prefill
from captioning.models.git import KVCache
from captioning.models.loading import load_model
from captioning.models.loss import caption_loss

ROWS = 5
DECODINGS = [
    Decoding(max_new_tokens=9),
    Decoding(max_new_tokens=9, min_new_tokens=6),
    Decoding(max_new_tokens=9, num_beams=4),
    Decoding(max_new_tokens=9, num_beams=3, length_penalty=-2.0),
    Decoding(max_new_tokens=9, repetition_penalty=1.7),
    Decoding(max_new_tokens=9, no_repeat_ngram_size=2),
]


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    """A GIT whose captions differ from image to image: larger weights than those that training starts from."""
    model = load_model(str(checkpoint)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.4, generator=generator)
    return model


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path):
    return transformers.AutoProcessor.from_pretrained(checkpoint).tokenizer


@pytest.fixture(scope="module")
def pixel_values() -> torch.Tensor:
    return torch.randn(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def captions_of_transformers(model, tokenizer, pixel_values, decoding: Decoding) -> list[str]:
    plain = transformers.GitForCausalLM(model.config).eval()
    plain.load_state_dict(model.state_dict())
    token_ids = plain.generate(pixel_values=pixel_values, **decoding.arguments())
    return [caption.strip() for caption in tokenizer.batch_decode(token_ids, skip_special_tokens=True)]


def test_the_images_of_this_file_have_different_captions(model, tokenizer, pixel_values):
    captions = generate_captions(model, tokenizer, prefill(model, pixel_values), Decoding(max_new_tokens=9))
    assert len(set(captions)) > 2


@pytest.mark.parametrize("decoding", DECODINGS)
def test_captions_are_those_of_transformers(model, tokenizer, pixel_values, decoding):
    captions = generate_captions(model, tokenizer, prefill(model, pixel_values), decoding)
    assert captions == captions_of_transformers(model, tokenizer, pixel_values, decoding)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_captions_are_the_same_from_images_that_the_loss_has_read(model, tokenizer, pixel_values, decoding):
    input_ids = torch.randint(5, model.config.vocab_size, (ROWS, 7), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 4:] = 0
    text = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": input_ids}
    images = KVCache()
    with torch.inference_mode():
        caption_loss(model, pixel_values=pixel_values, **text, kv_cache=images)
    captions = generate_captions(model, tokenizer, images, decoding)
    assert captions == captions_of_transformers(model, tokenizer, pixel_values, decoding)


def test_a_image_is_read_once_for_its_loss_and_all_its_beams(model, tokenizer, pixel_values):
    read: list[int] = []
    hook = model.git.image_encoder.register_forward_hook(lambda module, inputs, output: read.append(len(inputs[0])))
    ids = torch.full((ROWS, 3), 5)
    images = KVCache()
    with torch.inference_mode():
        caption_loss(
            model, pixel_values=pixel_values, input_ids=ids, attention_mask=ids * 0 + 1, labels=ids, kv_cache=images
        )
    generate_captions(model, tokenizer, images, Decoding(max_new_tokens=4, num_beams=3))
    hook.remove()
    assert read == [ROWS]


@pytest.fixture
def ending(model):
    """The same, with captions that end after one token to five."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.output.bias[model.generation_config.eos_token_id] += 3.0
    return model


@pytest.mark.parametrize("decoding", [*DECODINGS, Decoding(max_new_tokens=9, num_beams=2, min_new_tokens=3)])
def test_captions_that_end_early_are_those_of_transformers(ending, tokenizer, pixel_values, decoding):
    captions = generate_captions(ending, tokenizer, prefill(ending, pixel_values), decoding)
    assert captions == captions_of_transformers(ending, tokenizer, pixel_values, decoding)


def test_captions_that_have_ended_are_left_out(ending, tokenizer, pixel_values):
    rows: list[int] = []
    hook = ending.output.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    generate_captions(ending, tokenizer, prefill(ending, pixel_values), Decoding(max_new_tokens=9))
    hook.remove()
    assert rows[0] == ROWS
    assert rows[-1] == 1
    assert rows == sorted(rows, reverse=True)


def test_the_loss_is_the_same_where_the_images_are_kept(model, pixel_values):
    ids = torch.randint(5, model.config.vocab_size, (ROWS, 6), generator=torch.Generator().manual_seed(2))
    batch = {"pixel_values": pixel_values, "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with torch.inference_mode():
        kept = caption_loss(model, **batch, kv_cache=KVCache())
        assert torch.equal(kept.loss, caption_loss(model, **batch).loss)


def test_sampled_captions_depend_on_the_seed_alone(model, tokenizer, pixel_values):
    def sampled(seed: int) -> list[str]:
        torch.manual_seed(seed)
        decoding = Decoding(max_new_tokens=9, temperature=2.0, top_p=0.9)
        return generate_captions(model, tokenizer, prefill(model, pixel_values), decoding)

    assert sampled(1) == sampled(1) != sampled(2)


def test_the_saved_class_is_the_published_one(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).architectures == ["GitForCausalLM"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"max_new_tokens": 0}, r"model\.max_new_tokens must be at least 1, got 0"),
        ({"min_new_tokens": 40}, r"model\.min_new_tokens=40 must be between 0 and model\.max_new_tokens=32"),
        ({"repetition_penalty": 0.0}, r"model\.repetition_penalty must be above 0, got 0\.0"),
        ({"no_repeat_ngram_size": -1}, r"model\.no_repeat_ngram_size must be at least 0, got -1"),
        ({"temperature": -1.0}, r"model\.temperature must be above 0, got -1\.0"),
        ({"top_p": 1.5}, r"model\.top_p must be at most 1, got 1\.5"),
    ],
)
def test_a_wrong_decoding_is_refused_by_name(settings, line):
    with pytest.raises(UserError, match=line):
        Decoding(**settings)
