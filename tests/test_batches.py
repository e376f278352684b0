import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from captioning.data.batches import IGNORE_INDEX, CaptionDataset, Collator, Sample
from captioning.data.folder import read_folder
from captioning.data.visits import Visit, VisitSampler
from captioning.processor import make_processor

WORDS = ["a", "red", "cat", "dog", "sleeps"]


@pytest.fixture(scope="module")
def processor():
    return make_processor([" ".join(WORDS)], image_size=32, max_caption_tokens=32)


@pytest.fixture(scope="module")
def table(pictures):
    return read_folder(str(pictures)).table


def sample(caption: str, *, counts: bool = True) -> Sample:
    return Sample(
        row=3, id="a.png", pixel_values=torch.zeros(3, 32, 32), caption=caption, references=[caption], counts=counts
    )


def epoch_of(table, processor, *, num_workers=0, epoch=0, sample_captions=True):
    """The batches of an epoch."""
    sampler = VisitSampler(len(table), batch_size=4, shuffle=True)
    sampler.set_epoch(epoch)
    return list(
        DataLoader(
            CaptionDataset(table, processor, sample_captions=sample_captions),
            batch_size=4,
            sampler=sampler,
            collate_fn=Collator(processor.tokenizer, 32),
            num_workers=num_workers,
        )
    )


# ---------------------------------------------------------------- a sample


def test_pixels_are_those_that_the_image_processor_makes_of_the_picture(table, processor):
    with Image.open(table[5]["image"]["path"]) as picture:
        expected = processor(images=picture.convert("RGB"), return_tensors="pt").pixel_values[0]
    assert torch.equal(CaptionDataset(table, processor, sample_captions=True)[5]["pixel_values"], expected)


def test_pixels_are_scaled_cropped_and_normalized_as_clip_has_them(tmp_path, processor):
    # White is (1 - mean) / deviation of CLIP in each channel; a wide picture loses its left and right.
    wide = Image.new("RGB", (200, 32), "black")
    wide.paste("white", (84, 0, 116, 32))
    wide.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    pixels = CaptionDataset(read_folder(str(tmp_path)).table, processor, sample_captions=True)[0]["pixel_values"]
    assert pixels.shape == (3, 32, 32)
    white = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    assert pixels.amin((1, 2)).tolist() == pytest.approx(white, rel=1e-5)


def test_a_plain_row_number_is_a_visit_that_counts(table, processor):
    assert CaptionDataset(table, processor, sample_captions=True)[2]["counts"] is True


def test_a_sample_says_which_row_it_is(table, processor):
    drawn = CaptionDataset(table, processor, sample_captions=True)[Visit(4, seed=9, counts=False)]
    assert (drawn["row"], drawn["id"], drawn["counts"]) == (4, table[4]["id"], False)


def test_all_captions_of_a_picture_are_its_references(table, processor):
    dataset = CaptionDataset(table, processor, sample_captions=True)
    assert [dataset[row]["references"] for row in range(len(dataset))] == list(table["captions"])


def test_evaluation_learns_nothing_by_chance_and_takes_the_first_caption(table, processor):
    dataset = CaptionDataset(table, processor, sample_captions=False)
    assert all(dataset[Visit(row, seed=row)]["caption"] == dataset.table[row]["captions"][0] for row in range(20))


def test_over_visits_training_draws_every_caption_of_a_picture(table, processor):
    row = next(row for row, captions in enumerate(table["captions"]) if len(captions) == 2)
    dataset = CaptionDataset(table, processor, sample_captions=True)
    drawn = [dataset[Visit(row, seed=seed)]["caption"] for seed in range(40)]
    assert 10 <= drawn.count(table[row]["captions"][0]) <= 30


def captions_of(batches) -> dict[str, str]:
    """The tokens of the caption that each picture was given."""
    return {
        name: str(ids[mask.bool()].tolist())
        for batch in batches
        for name, ids, mask in zip(batch["id"], batch["input_ids"], batch["attention_mask"], strict=True)
    }


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_caption_of_a_visit_does_not_depend_on_worker_processes(table, processor, num_workers):
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


def test_labels_of_a_filler_are_ignored_all_over(processor):
    batch = collate(processor, sample("a red cat"), sample("a red cat", counts=False))
    assert batch["labels"][1].tolist() == [IGNORE_INDEX] * 5


def test_a_filler_leaves_the_labels_of_others_alone(processor):
    batch = collate(processor, sample("a red cat"), sample("a red cat", counts=False))
    assert torch.equal(batch["labels"][0], batch["input_ids"][0])


def test_ignored_labels_are_those_that_torch_ignores():
    logits, labels = torch.randn(1, 5), torch.tensor([IGNORE_INDEX])
    assert torch.nn.functional.cross_entropy(logits, labels, reduction="sum") == 0


def test_a_caption_too_long_is_cut_and_keeps_its_end(processor):
    batch = collate(processor, sample("a red cat sleeps"), max_caption_tokens=4)
    assert processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == ["[CLS]", "a", "red", "[SEP]"]


def test_pictures_are_stacked_in_order(processor):
    first, second = sample("cat"), sample("dog")
    second["pixel_values"] = torch.ones(3, 32, 32)
    assert collate(processor, first, second)["pixel_values"].mean((1, 2, 3)).tolist() == [0, 1]


def test_what_is_no_tensor_stays_a_list(processor):
    batch = collate(processor, sample("cat"), sample("dog", counts=False))
    assert {name: batch[name] for name in ("row", "id", "references", "counts")} == {
        "row": [3, 3],
        "id": ["a.png", "a.png"],
        "references": [["cat"], ["dog"]],
        "counts": [True, False],
    }


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("pixel_values", torch.float32),
        ("input_ids", torch.int64),
        ("attention_mask", torch.int64),
        ("labels", torch.int64),
    ],
)
def test_tensors_have_the_types_that_git_takes(table, processor, name, dtype):
    assert epoch_of(table, processor)[0][name].dtype == dtype
