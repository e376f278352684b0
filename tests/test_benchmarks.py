"""Small versions of the benchmarks: whole processes, and a model that is nearly none."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

IMAGES = 20  # of which 2 are judged


def benchmark(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    # Wide enough that no table is cut.
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "COLUMNS": "140"}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """What benchmarks/end_to_end.py printed, and the figures of both arms."""
    folder = tmp_path_factory.mktemp("compared")
    size = ("--model", "git-tiny", "--images", str(IMAGES), "--side", "320", "--epochs", "2", "--precision", "fp32")
    ran = benchmark("end_to_end", *size, "--json", "figures.json", folder=folder)
    assert ran.returncode == 0, ran.stderr
    assert [path.name for path in folder.iterdir()] == ["figures.json"], "something is left behind"
    [figures] = json.loads((folder / "figures.json").read_text())["fp32"]
    return ran.stdout, figures


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import measuring

    return measuring


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["tutorial", "ours"])
def test_each_arm_tells_of_every_step_evaluation_and_caption(compared: tuple[str, dict], arm: str) -> None:
    figures = compared[1][arm]
    assert [images for _, images in figures["steps"]] == [8, 8, 2] * 2  # 18 images, 2 x 4 a step, 2 epochs
    assert [images for _, images in figures["evaluations"]] == [2, 2]
    assert figures["captioning"][1] == 2
    assert 0 < figures["first_step"] < figures["seconds"]
    assert all(seconds > 0 for seconds, _ in [*figures["steps"], *figures["evaluations"], figures["captioning"]])
    assert figures["peak_memory"] > 100e6  # torch alone


@pytest.mark.slow
def test_training_is_no_slower_than_the_tutorials(compared: tuple[str, dict]) -> None:
    # The best of the four whole steps, since other tests run beside this one.
    ours, theirs = (
        min(seconds for seconds, images in compared[1][arm]["steps"] if images == 8) for arm in ("ours", "tutorial")
    )
    assert ours < theirs


@pytest.mark.slow
def test_both_are_printed_side_by_side(compared: tuple[str, dict]) -> None:
    head, *lines = (line for line in compared[0].splitlines() if "┃" in line or "│" in line)
    assert all(title in head for title in ("tutorial", "ours", "times better"))
    assert len(lines) == 7


@pytest.mark.slow
def test_growth_prints_a_table_for_what_is_asked_of_it(tmp_path: Path) -> None:
    sizes = ("--images", "40", "--batch-size", "--tokens", "--processes", "--steps", "3")
    ran = benchmark("growth", *sizes, "--usual", "40", "4", "8", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.stdout.splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["40"]
    assert all(row[1].endswith(" s") and int(row[3].replace(",", "")) > 0 and row[5].endswith(" MB") for row in rows)
    assert not list(tmp_path.iterdir())


def test_the_step_after_an_evaluation_is_not_counted(measuring: ModuleType) -> None:
    record = measuring.Record()
    record.begin_epoch()
    record.end_step(1)
    record.pause()
    record.end_step(2)
    record.end_step(3)
    assert [images for _, images in record.steps] == [1, 3]


def test_a_process_is_as_old_as_its_start_is_long_ago(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import time; time.sleep(0.5); import measuring; print(measuring.age())"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 0.5 <= float(said) < 60


def test_a_program_that_fails_is_named_with_its_last_words(measuring: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("raise SystemExit('no such image')")
    with pytest.raises(SystemExit, match=r"program\.py failed, with the settings a=1:\nno such image"):
        measuring.run(str(program), "a=1")


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("end_to_end", ["--model", "git-huge"], "--model git-huge: no file of conf/model with an architecture"),
        ("end_to_end", ["--images", "1"], "--images must be at least 2"),
        ("growth", ["--tokens", "2"], "captions of 3 tokens"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    tmp_path: Path, name: str, arguments: list[str], line: str
) -> None:
    ran = benchmark(name, *arguments, folder=tmp_path)
    assert ran.returncode != 0
    assert line in ran.stderr
    assert "Traceback" not in ran.stderr
