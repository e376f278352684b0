import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL
from omegaconf import OmegaConf

from captioning.config.compose import resume_arguments
from captioning.config.messages import explain
from captioning.metrics import HIGHER_IS_BETTER
from captioning.run import default_precision, make_trainer, resolve

CONF_FILES = sorted((ROOT / "conf").glob("*/*.yaml"))
CHOICES = [f"{file.parent.name}={file.stem}" for file in CONF_FILES]
DATA = ["data=folder", "data.path=/tmp"]


def test_every_file_of_conf_is_found():
    assert len(CHOICES) >= 18


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_of_conf_composes_into_settings_that_its_classes_take(compose, choice):
    from captioning import CaptionDataModule, CaptionModule

    path = ["data.path=/tmp"] if choice in ("data=folder", "data=local", "data=hub") else []
    cfg = compose(choice, *path, "trainer.accelerator=cpu", "trainer.precision=32-true")
    settings = resolve(cfg)
    CaptionModule(**settings.model)
    CaptionDataModule(**settings.data)
    make_trainer(replace(settings, trainer={**settings.trainer, "logger": False}))


def test_the_command_alone_means_pokemon_and_git_base(compose):
    cfg = compose()
    assert (cfg.model.checkpoint, cfg.data.source) == ("microsoft/git-base", "hub")
    assert "pokemon" in cfg.data.path


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")])
def test_every_experiment_says_its_command(name):
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    assert f"# python train.py experiment={name}\n" in text


def test_the_tutorials_own_settings(compose):
    cfg = compose("experiment=tutorial")
    assert (cfg.model.lr, cfg.model.weight_decay, cfg.model.lr_schedule) == (5e-5, 0.0, "linear")
    assert (cfg.data.batch_size, cfg.trainer.accumulate_grad_batches) == (32, 2)
    assert (cfg.trainer.max_epochs, cfg.trainer.precision) == (50, "16-mixed")
    assert (cfg.val_every_n_steps, cfg.callbacks.checkpoint.save_top_k) == (50, 3)


def test_an_experiment_changes_what_stands_above_it_and_the_command_line_changes_both(compose):
    assert compose().model.lr == 2e-5
    assert compose("experiment=tutorial").model.lr == 5e-5
    assert compose("experiment=tutorial", "model.lr=1.0e-6").model.lr == 1e-6


@pytest.mark.parametrize("name", ["max_steps=3", "devices=2", "num_nodes=2", "profiler=simple", "max_time=00:00:01:00"])
def test_arguments_of_the_trainer_that_no_file_mentions_can_be_set(compose, name):
    key, value = name.split("=")
    assert str(compose(f"trainer.{name}").trainer[key]) == value


@pytest.mark.parametrize(("name", "higher"), [item for item in HIGHER_IS_BETTER.items() if item[1] is not None])
def test_any_metric_can_be_what_best_means_and_knows_its_direction(compose, name, higher):
    callbacks = compose(f"monitor=val/{name}", "callbacks=early-stopping").callbacks
    for callback in (callbacks.checkpoint, callbacks.early_stopping):
        assert (callback.monitor, callback.mode) == (f"val/{name}", "max" if higher else "min")


# Every kind of mistake that composing a configuration can show, with what its one line must say.
MISTAKES = [
    ("trainer.devcies=2", r"^trainer\.devcies=2: no such setting; did you mean trainer\.devices\?$"),
    ("sed=3", r"^sed=3: no such setting; did you mean seed\?$"),
    ("callbacks.checkpoint.save_topk=3", r"did you mean callbacks\.checkpoint\.save_top_k\?$"),
    ("model.lr=fast", r"^model\.lr=fast: a number is needed$"),
    ("data.batch_size=many", r"^data\.batch_size=many: a whole number is needed$"),
    ("trainer.max_epochs=1.5", r"^trainer\.max_epochs=1\.5: a whole number is needed$"),
    ("trainer.fast_dev_run=[1]", r"^trainer\.fast_dev_run=\[1\]: "),
    ("model=git-bse", r"^model=git-bse: no such choice; did you mean git-base\?$"),
    ("experiment=quick", r"^experiment=quick: no such choice; did you mean quickstart\?$"),
    ("callbacks=emma", r"^callbacks=emma: no such choice; did you mean ema\?$"),
    ("callbacks=[early-stopping,emma]", r"^callbacks=emma: no such choice$"),
    ("logger=tensorboard", r"^logger=tensorboard: no such choice; there are: csv, none, wandb$"),
    ("monitor=val/were", r"^monitor=val/were: validation has no such metric; did you mean val/wer\?$"),
    ("monitor=wer", r"^monitor=wer: validation has no such metric; did you mean val/wer\?$"),
    ("monitor=test/wer", r"^monitor=test/wer: .*val/wer"),
    ("monitor=val/length_ratio", r"^monitor=val/length_ratio: neither more nor less of it is better"),
    ("callbacks.gallery.images=many", r"^callbacks\.gallery\.images=many: a whole number is needed$"),
    ("data.augment_colour=0.1", r"^data\.augment_colour=0\.1: is called data\.augment_color_jitter now$"),
    ("callbacks.gallery.pictures=3", r"^callbacks\.gallery\.pictures=3: is called callbacks\.gallery\.images now$"),
    ("hub.license=mit", r"^hub\.license=mit: is no setting any more$"),
    ("+model.learning_rate=1", r"^model\.learning_rate: no such setting; there are: .*lr"),
    ("+data.batchsize=1", r"^data\.batchsize: no such setting; did you mean data\.batch_size\?$"),
    ("modl=git-base", r"^modl=git-base: no such setting; did you mean model\?$"),
    ("data.path=~/images", r"""^data\.path=~/images: .*'data\.path="~/images"'$"""),
    ("data.path=cats, dogs", r"""^data\.path=cats, dogs: .*'data\.path="cats, dogs"'$"""),
    ("model.checkpoint=epoch=3.ckpt", r"""'model\.checkpoint="epoch=3\.ckpt"'$"""),
    ("data.path", r"^data\.path: a setting is given as KEY=VALUE$"),
]


@pytest.mark.parametrize(("override", "line"), MISTAKES)
def test_a_mistake_of_composition_is_answered_in_one_line(compose, override, line):
    with pytest.raises(Exception) as caught:  # noqa: PT011  the point is what becomes of whichever it is
        resolve(compose(override))
    answer = explain(caught.value)
    assert "\n" not in answer
    assert re.search(line, answer)


@pytest.mark.parametrize("path", ["~/images", "cats, dogs", "epoch=3.ckpt", "with (brackets)"])
def test_the_quotes_that_a_mistake_advises_work(compose, path):
    assert compose(f'data.path="{path}"').data.path == path


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sed: 3", r"sed.*experiment/mine.*no such setting; did you mean seed"),
        ("model:\n  lr: fast", r"model\.lr.*experiment/mine.*a number is needed"),
        ("data:\n  batch_size: thirty", r"data\.batch_size.*experiment/mine.*a whole number is needed"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path, text, line):
    import hydra

    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    with (
        hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(Exception) as caught,  # noqa: PT011
    ):
        hydra.compose("config", [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert re.search(line, explain(caught.value))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.accelerator=quantum", r"^trainer: .*quantum"),
        ("trainer.precision=8bit", r"^trainer: Precision '8bit' is invalid"),
        ("trainer.strategy=dpp", r"^trainer: .*dpp"),
        ("trainer.devices=0", r"^trainer: .*devices"),
        ("val_every_n_steps=0", r"^val_every_n_steps must be at least 1, got 0"),
        ("callbacks.gallery.images=0", r"^callbacks\.gallery\.images must be at least 1, got 0"),
        ("trainer.limit_test_batches=0", r"^trainer\.limit_test_batches=0: every run ends in a test"),
    ],
)
def test_what_lightning_refuses_is_answered_in_one_line(compose, override, line):
    cfg = compose(*SMALL, *DATA, override)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        make_trainer(resolve(cfg))
    assert re.search(line, explain(caught.value))


def test_the_resolved_configuration_is_plain(compose):
    settings = resolve(compose(*SMALL, *DATA))
    assert not any(OmegaConf.is_config(value) for section in vars(settings).values() if isinstance(section, dict)
                   for value in section.values())  # fmt: skip


def test_a_cpu_with_bf16_instructions_computes_in_bf16():
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("the oracle is Linux's")
    has_bf16 = any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    assert default_precision("cpu") == ("bf16-mixed" if has_bf16 else "32-true")


@pytest.mark.parametrize(("on", "precision"), [("true", "high"), ("false", "highest")])
def test_tf32_says_how_float32_matrices_are_multiplied(compose, on, precision):
    cfg = compose(*SMALL, *DATA, f"tf32={on}")
    before = torch.get_float32_matmul_precision()
    try:
        make_trainer(resolve(cfg))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_of_a_setting_given_twice_the_last_holds_when_the_command_of_a_run_is_repeated(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("{}\n")
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- model.lr=0.2\n")
    resumed = resume_arguments(["model.lr=0.1", "model.lr=0.2", f"resume={tmp_path}"])
    assert not [argument for argument in resumed if argument.startswith("model.lr")]
