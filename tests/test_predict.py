import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioning import Captioner

CAPTIONING = Path(sys.executable).with_name("captioning")


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, two of them in a folder of their own, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    for number, file in enumerate(sorted(images.glob("*.png"))[:5]):
        shutil.copy(file, folder / ("more" if number < 2 else "") / file.name)
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def ran(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(output.iterdir()) for line in file.read_text().splitlines()]


def test_two_processes_of_torchrun_caption_each_image_once(checkpoint, folder, tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node=2", "--standalone")
    given = (checkpoint, folder, tmp_path / "out", "--accelerator", "cpu", "--batch-size", 2, "--max-new-tokens", 5)
    process = ran(*torchrun, CAPTIONING, "predict", *given)
    files = [file.name for file in (tmp_path / "out").iterdir()]
    assert sorted(files) == ["captions-00000-of-00002.jsonl", "captions-00001-of-00002.jsonl"], process.stderr
    captions = {line["path"]: line["caption"] for line in lines(tmp_path / "out")}
    assert len(lines(tmp_path / "out")) == 6
    good = [path for path in captions if not path.endswith("bad.png")]
    expected = Captioner.from_pretrained(checkpoint, device="cpu")(good, max_new_tokens=5)
    assert [captions[path] for path in good] == expected
    assert "5 images captioned, 1 failed" in process.stderr


def test_a_image_that_fails_is_a_line_with_its_reason_and_a_status_of_its_own(checkpoint, folder, tmp_path):
    given = (checkpoint, folder, tmp_path / "out", "--accelerator", "cpu", "--max-new-tokens", 2)
    process = ran(CAPTIONING, "predict", *given)
    assert process.returncode == 2
    (bad,) = (line for line in lines(tmp_path / "out") if line["error"])
    assert (bad["path"], bad["error"]) == (str(folder / "bad.png"), "not an image")


def test_what_is_in_the_output_is_left_alone(checkpoint, folder):
    process = ran(CAPTIONING, "predict", checkpoint, folder, folder)
    assert (process.returncode, process.stderr) == (1, f"error: {folder}: something is in it; name a new folder\n")
