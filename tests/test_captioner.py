import gc
import http.server
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from captioning import Captioner
from captioning.errors import UserError
from captioning.inference.captioner import ImageError
from captioning.models.decoding import Decoding


@pytest.fixture(scope="module")
def captioner(checkpoint: Path) -> Captioner:
    captioner = Captioner.from_pretrained(checkpoint, device="cpu")
    captioner.decoding = Decoding(max_new_tokens=8)
    return captioner


@pytest.fixture(scope="module")
def files(images: Path) -> list[Path]:
    return sorted(images.glob("*.png"))[:6]


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> tuple[transformers.GitForCausalLM, transformers.ProcessorMixin]:
    """What transformers itself makes of the checkpoint."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    return model, transformers.AutoProcessor.from_pretrained(checkpoint, backend="pil")


def of_transformers(reference: tuple, file: Path, *, prompt: str = "", **settings: object) -> str:
    model, processor = reference
    tokens = [processor.tokenizer.cls_token_id, *processor.tokenizer(prompt, add_special_tokens=False).input_ids]
    values = processor(images=Image.open(file), return_tensors="pt").pixel_values
    ids = model.generate(pixel_values=values, input_ids=torch.tensor([tokens]), max_new_tokens=8, **settings)
    return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


# ------------------------------------------------------------ what it says


def test_captions_are_those_of_transformers(captioner, files, reference):
    assert captioner(files) == [of_transformers(reference, file) for file in files]


def test_so_are_captions_that_go_on_from_a_prefix(captioner, files, reference):
    assert captioner(files, prefix="a red") == [of_transformers(reference, file, prompt="a red") for file in files]


def test_so_are_beams_after_a_prefix(captioner, files, reference):
    theirs = [of_transformers(reference, file, prompt="a red", num_beams=3) for file in files]
    assert captioner(files, prefix="a red", num_beams=3) == theirs


def test_one_image_has_one_caption(captioner, files):
    assert captioner(files[0]) == captioner(files[:1])[0]


def test_batches_do_not_change_captions(captioner, files):
    assert captioner(files, batch_size=1) == captioner(files, batch_size=4)


@pytest.mark.parametrize(
    "of",
    [
        str,
        Path.read_bytes,
        Image.open,
        lambda file: np.asarray(Image.open(file)),
        lambda file: torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1),
    ],
    ids=["a name", "bytes", "PIL", "an array", "a tensor"],
)
def test_a_image_may_come_as(captioner, files, of):
    image = captioner.prepare(of(files[1]))
    assert torch.equal(image, captioner.prepare(files[1]))


def test_a_batch_of_arrays_is_several_images(captioner, files):
    arrays = np.stack([np.asarray(Image.open(file)) for file in files])
    assert captioner(arrays) == captioner(files)


def test_a_image_is_turned_as_its_camera_says(captioner, files, tmp_path):
    image = Image.open(files[0]).convert("RGB").resize((40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    upright = captioner.prepare(image.transpose(Image.Transpose.ROTATE_270))
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert torch.equal(captioner.prepare(given), upright)


# ------------------------------------------------------------ scores


def test_a_score_is_the_mean_log_probability_of_the_tokens(captioner, files, reference):
    model, processor = reference
    (caption,) = captioner.candidates(files[0])[0]
    values = processor(images=Image.open(files[0]), return_tensors="pt").pixel_values
    ids = model.generate(pixel_values=values, max_new_tokens=8)
    logits = model(pixel_values=values, input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    length = ids.shape[1]
    of_tokens = logits[:, -length:-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
    assert caption.score == pytest.approx(of_tokens.mean().item(), abs=1e-4)


def test_what_follows_the_end_of_a_caption_does_not_count(captioner, files):
    """Here every token is an end, so each caption has one; beside others it is padded."""
    network = captioner.network
    ends, network.generation_config.eos_token_id = network.generation_config.eos_token_id, list(range(500))
    try:
        ended = captioner.candidates(files, batch_size=6)
        alone = captioner.candidates(files, batch_size=1)
    finally:
        network.generation_config.eos_token_id = ends
    for (one,), (other,) in zip(ended, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)


def test_several_captions_are_the_best_beams_the_likeliest_first(captioner, files):
    for captions in captioner.candidates(files, num_captions=3):
        scores = [caption.score for caption in captions]
        assert len({caption.text for caption in captions}) == 3
        assert scores == sorted(scores, reverse=True)


def test_drawn_captions_are_as_many_as_were_asked_for(captioner, files):
    torch.manual_seed(0)
    captions = captioner.candidates(files[:2], num_captions=4, temperature=1.5)
    assert [len(each) for each in captions] == [4, 4]
    assert len({caption.text for caption in captions[0]}) > 1


# ------------------------------------------------------------ streams


def test_a_bad_image_is_told_in_its_place_and_the_others_are_captioned(captioner, files, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    given = [files[0], tmp_path / "bad.png", tmp_path / "absent.png", files[1]]
    results = list(captioner.stream(given, batch_size=2))
    assert [result.image for result in results] == given
    assert [len(result.captions) for result in results] == [1, 0, 0, 1]
    assert results[1].error == "not an image"
    assert results[2].error == "No such file or directory"
    assert [results[0].captions[0].text, results[3].captions[0].text] == captioner(files[:2])


def test_a_stream_takes_no_more_than_a_few_batches_ahead(captioner, files):
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield files[0]

    stream = captioner.stream(endless(), batch_size=2)
    next(stream)
    stream.close()
    assert taken <= 8


def test_images_that_were_captioned_are_let_go(captioner, files):
    seen = []

    def opened() -> Iterator[Image.Image]:
        for _ in range(40):
            image = Image.open(files[0])
            seen.append(weakref.ref(image))
            yield image

    stream = captioner.stream(opened(), batch_size=2)
    for _ in range(30):
        next(stream)
    gc.collect()
    assert sum(reference() is not None for reference in seen) <= 10


def test_a_batch_that_does_not_fit_is_halved(captioner, files, monkeypatch):
    caption = captioner._caption

    def of_two(pixels: torch.Tensor, *rest: object) -> object:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError
        return caption(pixels, *rest)

    expected = captioner(files)
    monkeypatch.setattr(captioner, "_caption", of_two)
    assert captioner(files, batch_size=6) == expected


# ------------------------------------------------------------ URLs


@pytest.fixture
def site(images: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(images))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_image_may_be_a_url(captioner, files, site):
    assert torch.equal(captioner.prepare(f"{site}/{files[2].name}"), captioner.prepare(files[2]))


def test_a_url_that_has_no_image_is_told_with_what_the_server_says(captioner, site):
    with pytest.raises(ImageError, match=r"/absent\.png: the server answers 404 File not found"):
        captioner.prepare(f"{site}/absent.png")


def test_a_server_that_is_not_there_is_told(captioner):
    with pytest.raises(ImageError, match=r"http://127\.0\.0\.1:1/a\.png: can't be reached"):
        captioner.prepare("http://127.0.0.1:1/a.png")


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beam": 2}, "num_beam: no such setting; did you mean num_beams?"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"max_new_tokens": 2000}, "this model has positions for"),
        ({"num_captions": 0}, "num_captions must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_told_before_any_image_is_taken(captioner, settings, message):
    with pytest.raises(UserError) as error:
        captioner.stream(iter([None]), **settings)
    assert message in str(error.value)


def test_an_array_of_another_kind_is_told_what_it_should_be(captioner):
    with pytest.raises(ImageError, match="float32 \\(3, 5\\): an array is uint8, from 0 to 255"):
        captioner(np.zeros((3, 5), np.float32))


def test_what_is_no_image_is_told(captioner):
    with pytest.raises(ImageError, match="an image \\(int\\): int is no image"):
        captioner([3])


def test_a_device_that_is_not_there_is_told(checkpoint):
    with pytest.raises(UserError, match="device=cuda:7: can't be used"):
        Captioner.from_pretrained(checkpoint, device="cuda:7")


# ------------------------------------------------------------ what it needs


def test_neither_lightning_nor_hydra_nor_datasets_is_imported():
    program = "import sys; from captioning import Captioner; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not modules & {"lightning", "hydra", "omegaconf", "datasets", "torchmetrics", "wandb", "pyarrow", "rich"}


def test_half_precision_captions_too(checkpoint, files):
    captioner = Captioner.from_pretrained(checkpoint, device="cpu", dtype=torch.bfloat16)
    captioner.decoding = replace(captioner.decoding, max_new_tokens=4)
    assert all(captioner(files))
