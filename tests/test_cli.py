import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

COMMAND = Path(sys.executable).with_name("captioning")


def output_of(*arguments: str) -> str:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=True).stdout


def test_version_is_that_of_the_installed_package():
    assert output_of("--version") == f"captioning {version('captioning')}\n"


def test_help_says_what_it_is_for():
    assert "Caption images" in output_of("--help")


def test_help_lists_the_commands_in_the_order_of_use_with_whole_sentences():
    lines = output_of("--help").partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["check", "evaluate", "caption"]
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_neither_the_command_nor_the_package_imports_what_takes_seconds():
    code = (
        "import captioning.cli, sys; print({'torch', 'lightning', 'transformers', 'hydra', 'wandb'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_user_who_imports_the_classes_needs_no_hydra_and_no_wandb():
    code = (
        "from captioning import CaptionDataModule, CaptionModule; import sys\n"
        "print({'hydra', 'omegaconf', 'wandb'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
