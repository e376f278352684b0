import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from captioning.data.cache import decode_all
from captioning.data.dataset import IGNORE_INDEX, MAX_CAPTIONS, CaptionDataset, Collator, Sample, choose_captions
from captioning.data.sampler import ResumableDistributedSampler, SampleIndex
from captioning.data.sources import read_local
from captioning.data.transforms import normalize
from captioning.models.processor import make_processor

WORDS = ["a", "red", "cat", "dog", "sleeps"]


@pytest.fixture(scope="module")
def processor():
    return make_processor([" ".join(WORDS)], image_size=32, max_caption_tokens=32)


@pytest.fixture(scope="module")
def table(images):
    return read_local(str(images)).table


def sample(*captions: str, is_padding: bool = False) -> Sample:
    return Sample(
        row=3,
        id="a.png",
        pixels=torch.zeros(3, 32, 32, dtype=torch.uint8),
        captions=list(captions),
        references=list(captions),
        seed=7,
        is_padding=is_padding,
    )


def dataset_of(table, processor, *, captions="sample", **cached) -> CaptionDataset:
    return CaptionDataset(table, processor.image_processor, captions=captions, **cached)


def epoch_of(table, processor, *, num_workers=0, epoch=0):
    """The batches of an epoch."""
    sampler = ResumableDistributedSampler(len(table), batch_size=4, shuffle=True)
    sampler.set_epoch(epoch)
    return list(
        DataLoader(
            dataset_of(table, processor),
            batch_size=4,
            sampler=sampler,
            collate_fn=Collator(processor.tokenizer, 32),
            num_workers=num_workers,
        )
    )


# ---------------------------------------------------------------- a sample


def test_pixels_once_normalized_are_what_the_processor_makes_of_the_image(table, processor):
    with Image.open(table[5]["image"]["path"]) as image:
        expected = processor(images=image.convert("RGB"), return_tensors="pt").pixel_values
    pixels = dataset_of(table, processor)[5]["pixels"]
    assert torch.equal(normalize(pixels[None], processor.image_processor), expected)


def test_cached_pixels_are_those_of_the_image_itself(table, processor, images, tmp_path):
    decoded_rows = decode_all(read_local(str(images)), image_processor=processor.image_processor, cache_dir=tmp_path)
    rows = [7, 3, 20]
    kept = dataset_of(
        table.select(rows), processor, image_cache=decoded_rows.image_cache, cache_index=decoded_rows.cache_index[rows]
    )
    decoded = dataset_of(table.select(rows), processor)
    assert all(torch.equal(kept[row]["pixels"], decoded[row]["pixels"]) for row in range(3))


def test_a_plain_row_number_is_no_padding(table, processor):
    assert dataset_of(table, processor)[2]["is_padding"] is False


def test_a_sample_says_which_row_it_is(table, processor):
    drawn = dataset_of(table, processor)[SampleIndex(4, seed=9, is_padding=True)]
    assert (drawn["row"], drawn["id"], drawn["is_padding"]) == (4, table[4]["id"], True)


def test_all_captions_of_an_image_are_its_references(table, processor):
    dataset = dataset_of(table, processor)
    assert [dataset[row]["references"] for row in range(len(dataset))] == list(table["captions"])


def test_the_first_caption_can_be_chosen(table, processor):
    dataset = dataset_of(table, processor, captions="first")
    assert all(dataset[SampleIndex(row, seed=row)]["captions"] == table[row]["captions"][:1] for row in range(20))


def test_all_captions_can_be_chosen(table, processor):
    dataset = dataset_of(table, processor, captions="all")
    assert [dataset[row]["captions"] for row in range(20)] == [table[row]["captions"] for row in range(20)]


def test_of_very_many_captions_each_sample_has_some_and_samples_have_all():
    captions = [f"caption {number}" for number in range(30)]
    samples = [choose_captions(captions, "all", seed) for seed in range(10)]
    assert all(len(set(chosen)) == MAX_CAPTIONS for chosen in samples)
    assert {caption for chosen in samples for caption in chosen} == set(captions)


def test_over_samples_training_draws_every_caption_of_an_image(table, processor):
    row = next(row for row, captions in enumerate(table["captions"]) if len(captions) == 2)
    dataset = dataset_of(table, processor)
    drawn = [dataset[SampleIndex(row, seed=seed)]["captions"][0] for seed in range(40)]
    assert 10 <= drawn.count(table[row]["captions"][0]) <= 30


def captions_of(batches) -> dict[str, str]:
    """The tokens of the caption that each image was given."""
    return {
        name: str(ids[mask.bool()].tolist())
        for batch in batches
        for name, ids, mask in zip(batch["id"], batch["input_ids"], batch["attention_mask"], strict=True)
    }


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_caption_of_a_sample_does_not_depend_on_worker_processes(table, processor, num_workers):
    alone = captions_of(epoch_of(table, processor))
    assert captions_of(epoch_of(table, processor, num_workers=num_workers)) == alone


def test_another_epoch_draws_other_captions(table, processor):
    assert captions_of(epoch_of(table, processor, epoch=0)) != captions_of(epoch_of(table, processor, epoch=1))


def test_the_same_epoch_draws_the_same_captions(table, processor):
    assert captions_of(epoch_of(table, processor)) == captions_of(epoch_of(table, processor))


# ---------------------------------------------------------------- a batch


def collate(processor, *samples: Sample, max_caption_tokens: int = 32):
    return Collator(processor.tokenizer, max_caption_tokens)(samples)


def test_captions_are_padded_to_the_longest_and_not_further(processor):
    batch = collate(processor, sample("cat"), sample("a red cat"))
    assert batch["input_ids"].shape == (2, 5)  # three words, a start and an end


def test_tokens_are_start_words_end_and_padding(processor):
    batch = collate(processor, sample("cat"), sample("a red cat"))
    assert processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == (
        ["[CLS]", "cat", "[SEP]", "[PAD]", "[PAD]"]
    )


def test_the_attention_mask_is_zero_on_padding_alone(processor):
    batch = collate(processor, sample("cat"), sample("a red cat"))
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_labels_are_the_tokens_and_ignore_padding(processor):
    batch = collate(processor, sample("cat"), sample("a red cat"))
    ids = batch["input_ids"].tolist()
    assert batch["labels"].tolist() == [[*ids[0][:3], IGNORE_INDEX, IGNORE_INDEX], ids[1]]


def test_labels_of_a_padding_sample_are_ignored_all_over(processor):
    batch = collate(processor, sample("a red cat"), sample("a red cat", is_padding=True))
    assert batch["labels"][1].tolist() == [IGNORE_INDEX] * 5


def test_a_padding_sample_leaves_the_labels_of_others_alone(processor):
    batch = collate(processor, sample("a red cat"), sample("a red cat", is_padding=True))
    assert torch.equal(batch["labels"][0], batch["input_ids"][0])


def test_ignored_labels_are_those_that_torch_ignores():
    logits, labels = torch.randn(1, 5), torch.tensor([IGNORE_INDEX])
    assert torch.nn.functional.cross_entropy(logits, labels, reduction="sum") == 0


def test_a_caption_too_long_is_cut_and_keeps_its_end(processor):
    batch = collate(processor, sample("a red cat sleeps"), max_caption_tokens=4)
    assert processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == ["[CLS]", "a", "red", "[SEP]"]


def test_several_captions_of_an_image_are_packed_into_one_sequence(processor):
    batch = collate(processor, sample("cat", "a red cat"), sample("dog"))
    assert processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == (
        ["[CLS]", "cat", "[SEP]", "[CLS]", "a", "red", "cat", "[SEP]"]
    )
    assert batch["caption_index"].tolist() == [[0] * 3 + [1] * 5, [0] * 3 + [-1] * 5]


def test_single_captions_are_not_packed(processor):
    assert not {"position_ids", "caption_index"} & collate(processor, sample("cat"), sample("dog")).keys()


def test_images_are_stacked_in_order(processor):
    first, second = sample("cat"), sample("dog")
    second["pixels"] = torch.ones(3, 32, 32, dtype=torch.uint8)
    assert collate(processor, first, second)["pixel_values"].amax((1, 2, 3)).tolist() == [0, 1]


def test_what_is_no_tensor_stays_a_list(processor):
    batch = collate(processor, sample("cat"), sample("dog", is_padding=True))
    assert {name: batch[name] for name in ("row", "id", "references", "seed", "is_padding")} == {
        "row": [3, 3],
        "id": ["a.png", "a.png"],
        "references": [["cat"], ["dog"]],
        "seed": [7, 7],
        "is_padding": [False, True],
    }


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("pixel_values", torch.uint8),
        ("input_ids", torch.int64),
        ("attention_mask", torch.int64),
        ("labels", torch.int64),
    ],
)
def test_tensors_have_the_types_that_they_travel_in(table, processor, name, dtype):
    assert epoch_of(table, processor)[0][name].dtype == dtype
