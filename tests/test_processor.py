import json
import shutil
import subprocess
import sys

import pytest
import transformers
from huggingface_hub import constants
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from captioning.errors import UserError
from captioning.metrics import normalize
from captioning.models.processor import load_processor, make_processor, processor_from_files, processor_to_files

CAPTIONS = [f"a {color} {kind}" for color in ("red", "green", "blue") for kind in ("cat", "dog", "caterpillar")]


@pytest.fixture(scope="module")
def processor():
    return make_processor(CAPTIONS, image_size=32, max_caption_tokens=16)


@pytest.fixture
def saved(processor, tmp_path):
    """The processor in a folder."""
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def tokens(processor, caption: str) -> list[str]:
    return processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(caption).input_ids)


def mistake(checkpoint) -> str:
    with pytest.raises(UserError) as caught:
        load_processor(str(checkpoint))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- made from captions


def test_a_caption_is_its_words_between_start_and_end(processor):
    assert tokens(processor, "A red CAT") == ["[CLS]", "a", "red", "cat", "[SEP]"]


def test_words_are_learned_in_lower_case():
    its = make_processor(["A Red CAT"], image_size=32, max_caption_tokens=16)
    assert tokens(its, "A Red CAT") == ["[CLS]", "a", "red", "cat", "[SEP]"]


def test_special_tokens_have_the_numbers_that_bert_gives_the_first(processor):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert processor.tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]


def test_special_tokens_have_their_parts(processor):
    its = processor.tokenizer
    parts = (its.pad_token, its.unk_token, its.cls_token, its.sep_token, its.mask_token)
    assert parts == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def test_a_word_of_unknown_letters_is_unknown(processor):
    assert tokens(processor, "a кошка") == ["[CLS]", "a", "[UNK]", "[SEP]"]


def test_an_unknown_word_of_known_letters_is_spelled(processor):
    assert processor.tokenizer.decode(processor.tokenizer("grace").input_ids, skip_special_tokens=True) == "grace"


def test_special_tokens_are_left_out_of_a_decoded_caption(processor):
    ids = processor.tokenizer("a red cat").input_ids
    assert processor.tokenizer.decode([*ids, 0, 0], skip_special_tokens=True) == "a red cat"


def test_the_vocabulary_is_no_larger_than_asked_for():
    small = make_processor(CAPTIONS, image_size=32, max_caption_tokens=16, vocab_size=40)
    assert len(small.tokenizer) == 40


@pytest.mark.parametrize("captions", [CAPTIONS, CAPTIONS[::-1]], ids=["again", "in another order"])
def test_the_same_captions_give_every_process_the_same_vocabulary(processor, captions):
    for _ in range(3):  # by chance once or twice
        again = make_processor(captions, image_size=32, max_caption_tokens=16)
        assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_rare_characters_are_kept_however_many_there_are():
    ideographs = [chr(0x4E00 + number) for number in range(1500)]
    its = make_processor(ideographs, image_size=32, max_caption_tokens=16).tokenizer
    assert its.unk_token_id not in its(ideographs, add_special_tokens=False).input_ids


def test_images_become_as_large_as_asked_for(processor):
    pixels = processor(images=Image.new("RGB", (50, 40)), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 32, 32)


def test_the_tokenizer_knows_the_longest_caption(processor):
    assert processor.tokenizer.model_max_length == 16


ALPHABET = "abt 059!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡—“😀👨👩❤猫只ねこк\N{SOFT HYPHEN}\N{ZERO WIDTH JOINER}\ufe0f"
LEARNED = make_processor([" ".join(ALPHABET)], image_size=32, max_caption_tokens=64).tokenizer


@given(st.text(ALPHABET, max_size=30))
def test_a_caption_learned_by_heart_is_right_once_both_are_normalized(caption):
    assume(normalize(caption))
    decoded = LEARNED.decode(LEARNED(caption).input_ids, skip_special_tokens=True)
    assert normalize(decoded) == normalize(caption)


# ---------------------------------------------------------------- saved and loaded


def test_another_process_without_this_project_reads_what_was_saved(processor, saved):
    code = (
        "import json, sys\n"
        "sys.modules['torch'] = None\n"  # seconds to import, and not needed
        "import transformers\n"
        "its = transformers.AutoProcessor.from_pretrained(sys.argv[1])\n"
        "facts = [type(its).__name__, its.tokenizer('a red zzz').input_ids, its.image_processor.crop_size['height']]\n"
        "print(json.dumps(facts))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(done.stdout) == ["GitProcessor", processor.tokenizer("a red zzz").input_ids, 32]


def test_what_was_saved_is_loaded(processor, saved):
    assert tokens(load_processor(str(saved)), "a red cat") == tokens(processor, "a red cat")


def test_a_name_of_the_hub_is_looked_up_in_its_cache(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "models--user--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    (folder / "snapshots").mkdir()
    shutil.copytree(saved, folder / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    assert load_processor("user/name").tokenizer.model_max_length == 16


def test_a_folder_may_be_below_the_home_folder(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load_processor(f"~/{saved.name}").tokenizer.model_max_length == 16


def test_images_are_prepared_by_pil_even_where_transformers_would_take_torchvision(saved):
    pytest.importorskip("torchvision", reason="PIL is all there is without torchvision")
    assert isinstance(load_processor(str(saved)).image_processor, transformers.CLIPImageProcessorPil)


def test_a_checkpoint_of_the_hub_has_other_files_and_the_same_processor(processor, tmp_path):
    # As microsoft/git-base has them: a configuration for the image processor alone, and vocab.txt.
    words = processor.tokenizer.get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    image = {**processor.image_processor.to_dict(), "image_processor_type": "CLIPImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**image, "processor_class": "GitProcessor"}))
    assert tokens(load_processor(str(tmp_path)), "a red cat") == tokens(processor, "a red cat")


def test_files_give_back_the_processor(processor):
    again = processor_from_files(processor_to_files(processor))
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()


def test_files_stay_the_same_from_checkpoint_to_checkpoint(processor):
    once = processor_to_files(processor_from_files(processor_to_files(processor)))
    assert processor_to_files(processor_from_files(once)) == once


def test_files_are_written_nowhere_but_into_their_own_folder(processor, tmp_path):
    outside = tmp_path / "outside.json"
    processor_from_files({**processor_to_files(processor), str(outside): "{}", "../../outside.json": "{}"})
    assert not outside.exists()


def test_code_that_a_checkpoint_brings_is_not_run(saved):
    for name, key, kind in (
        ("tokenizer_config.json", "AutoTokenizer", ["mine.Mine", None]),
        ("processor_config.json", "AutoProcessor", "mine.Mine"),
    ):
        config = json.loads((saved / name).read_text())
        (saved / name).write_text(json.dumps({**config, "auto_map": {key: kind}}))
    (saved / "mine.py").write_text(f"open({str(saved / 'was run')!r}, 'w')")
    load_processor(str(saved))
    assert not (saved / "was run").exists()


# ---------------------------------------------------------------- what is no processor


def test_a_folder_without_a_processor_is_named_with_the_way_out(tmp_path):
    message = mistake(tmp_path)
    assert message.startswith(f"model.checkpoint={tmp_path}: its processor can't be loaded")
    assert "AutoProcessor.from_pretrained(ORIGINAL).save_pretrained" in message


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("processor_config.json", "Can't load image processor"),
        ("tokenizer.json", "its tokenizer has no words"),
        ("tokenizer_config.json", "no padding token"),
    ],
)
def test_a_processor_with_a_part_missing_is_refused(saved, missing, expected):
    (saved / missing).unlink()
    assert expected in mistake(saved)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{oops", "[]", '{"added_tokens": []}'], ids=["empty", "broken", "list", "other"])
def test_a_damaged_processor_is_refused_in_one_line(saved, name, text):
    (saved / name).write_text(text)
    assert mistake(saved).startswith(f"model.checkpoint={saved}: its ")


def test_a_tokenizer_alone_is_no_processor(processor, tmp_path):
    transformers.BertTokenizer(vocab=processor.tokenizer.get_vocab()).save_pretrained(tmp_path)
    assert "its processor is a BertTokenizer without tokenizer; captioning needs" in mistake(tmp_path)


def test_an_image_processor_alone_is_no_processor(processor, tmp_path):
    processor.image_processor.save_pretrained(tmp_path)
    assert "its processor is a CLIPImageProcessorPil without tokenizer; captioning needs" in mistake(tmp_path)


def test_a_processor_that_needs_a_library_is_refused_in_one_line_that_names_it(saved):
    config = json.loads((saved / "processor_config.json").read_text())
    (saved / "processor_config.json").write_text(json.dumps({**config, "processor_class": "Pop2PianoProcessor"}))
    assert "(Pop2PianoProcessor requires " in mistake(saved)


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert "is a file; a checkpoint is a folder or a Hub name" in mistake(tmp_path / "model.safetensors")
