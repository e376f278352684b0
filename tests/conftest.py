"""Small real things that tests share: images, a checkpoint, a composed configuration."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
COLORS = ("red", "green", "blue", "yellow", "black", "white")
# What makes a run small: a GIT of 60 thousand weights, one epoch, no worker processes.
SMALL = (
    "model=git-tiny",
    "model.architecture.hidden_size=32",
    "model.architecture.intermediate_size=64",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.num_attention_heads=2",
    "model.architecture.vision_config.hidden_size=32",
    "model.architecture.vision_config.intermediate_size=64",
    "model.architecture.vision_config.num_hidden_layers=2",
    "model.architecture.vision_config.num_attention_heads=2",
    "model.architecture.vision_config.image_size=32",
    "model.max_new_tokens=8",
    "data=folder",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.precision=32-true",
    "logger=none",
)


# Half a minute to minutes each; begun first, so that all processes end at about the same time.
LONG = ("sweep", "distributed", "stopping", "resume", "train", "lora", "caption_command", "evaluate", "onnx", "optuna")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", choices=["cuda", "cpu"], help="where tests marked gpu run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Here and in the processes that tests start: small models gain nothing from more."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that a test keeps is left in the user's cache, or found there."""
    os.environ["CAPTIONING_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 images, an odd number, each a colored square on a colored ground, with one or two captions."""
    folder = tmp_path_factory.mktemp("images")
    pairs = [(ground, square) for ground in COLORS for square in COLORS if ground != square][:29]
    lines = []
    for ground, square in pairs:
        image = Image.new("RGB", (40, 36), ground)
        image.paste(square, (10, 8, 30, 28))
        name = f"{square}-on-{ground}.png"
        image.save(folder / name)
        captions = [f"a {square} square on {ground}", f"a {square} square"]
        lines.append({"file_name": name, "text": captions if len(lines) % 2 else captions[0]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as the Hub has them: a small GIT with its processor."""
    from captioning.models.loading import init_model
    from captioning.models.processor import make_processor

    folder = tmp_path_factory.mktemp("checkpoint")
    captions = [f"a {square} square on {ground}" for ground in COLORS for square in COLORS]
    processor = make_processor(captions, image_size=32, max_caption_tokens=32)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():  # the same weights, whatever tests ran before
        torch.manual_seed(0)
        model = init_model({**tower, "vision_config": {**tower, "patch_size": 8}}, processor=processor)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the project says in the terminal; its ``text``."""
    from captioning.run import setup_logging

    setup_logging()  # which keeps messages from where pytest listens
    monkeypatch.setattr(logging.getLogger("captioning"), "propagate", True)
    return caplog


def compose_config(*overrides: str) -> object:
    """Compose the project's configuration with overrides, as the command line does."""
    import hydra

    import captioning.config.schema  # noqa: F401  its schema is part of conf/config.yaml

    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("config", list(overrides))


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., object]:
    """:func:`compose_config` with a run folder of the test's own."""
    return lambda *overrides: compose_config(f"output_dir={tmp_path / 'run'}", *overrides)


@pytest.fixture(scope="session")
def chromium_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    if chromium.EXECUTABLE is None:
        pytest.skip("no chromium and no google-chrome is installed")
    browser = chromium.Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium_browser: chromium.Chromium) -> Iterator[chromium.Chromium]:
    """A browser with JavaScript and a page of the usual size, whatever a test does to it."""
    yield chromium_browser
    chromium_browser.do("Emulation.setScriptExecutionDisabled", value=False)
    chromium_browser.do("Emulation.clearDeviceMetricsOverride")
