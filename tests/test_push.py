import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, SMALL
from hub_stand_in import TOKEN, Hub, hub_stand_in
from runs import forked

from captioning import Captioner

CAPTIONING = Path(sys.executable).with_name("captioning")
CARD_OF_OURS = b"---\ntags:\n- captioning\n---\n"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_stand_in() as hub:
        yield hub


def in_a_process(
    *command: object, hub: Hub | None, home: Path, token: str | None = TOKEN
) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    # Large files go by LFS here; Xet, which the Hub has beside it, is a protocol of its own.
    own = {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.address if hub else "http://127.0.0.1:9"}
    own |= {"HF_TOKEN": token} if token else {}
    return forked(command, environment={**kept, **own})


def pushed(checkpoint: Path, *options: str, hub: Hub | None, home: Path, token: str | None = TOKEN):
    return in_a_process(CAPTIONING, "push", checkpoint, "me/squares", *options, hub=hub, home=home, token=token)


def error_of(process: subprocess.CompletedProcess) -> str:
    assert process.returncode == 1
    [line] = process.stderr.splitlines()
    return line


def test_what_was_pushed_captions_alike_in_a_process_with_transformers_alone(checkpoint, images, hub, tmp_path):
    process = pushed(checkpoint, hub=hub, home=tmp_path)
    assert process.returncode == 0, process.stderr
    assert hub.repositories["me/squares"]["private"] is True
    image = sorted(images.glob("*.png"))[0]
    lines = hub.repositories["me/squares"]["files"]["README.md"].decode().split("```python\n")[1].split("```")[0]
    script = "import sys\nsys.modules['captioning'] = None\n" + lines.replace("image.jpg", str(image))
    (tmp_path / "script.py").write_text(script)
    ran = in_a_process(tmp_path / "script.py", hub=hub, home=tmp_path / "another")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == Captioner.from_pretrained(checkpoint, device="cpu")(image)


def test_after_a_failure_the_same_command_sends_no_weights_again(checkpoint, hub, tmp_path):
    hub.failing_commits = 1
    assert "the Hub refuses (400" in error_of(pushed(checkpoint, hub=hub, home=tmp_path))
    assert pushed(checkpoint, hub=hub, home=tmp_path).returncode == 0
    assert [command for command, _ in hub.requests].count("PUT") == 1
    assert "model.safetensors" in hub.repositories["me/squares"]["files"]


def test_a_dry_run_lists_what_would_go_and_asks_the_hub_nothing(checkpoint, tmp_path):
    process = pushed(checkpoint, "--dry-run", hub=None, home=tmp_path, token=None)
    assert process.returncode == 0, process.stderr
    assert "model.safetensors" in process.stdout
    assert process.stdout.splitlines()[-1] == "would go, private, to http://127.0.0.1:9/me/squares"


def test_no_token_is_in_what_is_said_or_sent(checkpoint, hub, tmp_path):
    process = pushed(checkpoint, "--public", hub=hub, home=tmp_path)
    assert TOKEN not in process.stdout + process.stderr
    assert not any(TOKEN.encode() in content for content in hub.repositories["me/squares"]["files"].values())
    assert hub.repositories["me/squares"]["private"] is False


def test_without_a_login_the_way_to_one_is_told(checkpoint, hub, tmp_path):
    assert "log in with `hf auth login`" in error_of(pushed(checkpoint, hub=hub, home=tmp_path, token=None))


def test_a_login_that_may_not_write_is_told_so(checkpoint, hub, tmp_path):
    hub.refusing = "/api/repos/create"
    assert "this login may not write there" in error_of(pushed(checkpoint, hub=hub, home=tmp_path))


def test_a_hub_that_is_not_there_is_told_in_a_line(checkpoint, tmp_path):
    assert "the Hub can't be reached" in error_of(pushed(checkpoint, hub=None, home=tmp_path))


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"private": False, "files": {"README.md": CARD_OF_OURS}}, "is public on the Hub; say --public"),
        ({"files": {"weights.bin": b"another's"}}, "holds something else; take another name, or --replace"),
    ],
)
def test_a_repository_that_does_not_fit_is_left_as_it_was(checkpoint, hub, tmp_path, there, message):
    hub.add("me/squares", **there)
    assert message in error_of(pushed(checkpoint, hub=hub, home=tmp_path))
    assert hub.repositories["me/squares"]["commits"] == 0


def test_a_model_that_was_pushed_before_is_followed_by_its_next(checkpoint, hub, tmp_path):
    hub.add("me/squares", files={"README.md": CARD_OF_OURS})
    assert pushed(checkpoint, hub=hub, home=tmp_path).returncode == 0
    assert hub.repositories["me/squares"]["commits"] == 1


# ------------------------------------------------------------ by a training


def trained(images: Path, *settings: str, hub: Hub | None, home: Path, **options) -> subprocess.CompletedProcess:
    run = (f"data.path={images}", f"hydra.run.dir={home / 'run'}", f"hydra.sweep.dir={home / 'sweep'}")
    return in_a_process(ROOT / "train.py", *SMALL, *run, *settings, hub=hub, home=home, **options)


def test_a_training_uploads_its_best_model_at_its_end(images, hub, tmp_path):
    process = trained(images, "hub.push=true", "hub.name=me/squares", hub=hub, home=tmp_path)
    assert process.returncode == 0, process.stderr
    files = hub.repositories["me/squares"]["files"]
    assert files["model.safetensors"] == (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert "## How good it is" in files["README.md"].decode()
    assert f"the model is on the Hub, {hub.address}/me/squares" in process.stderr
    assert hub.repositories["me/squares"]["private"] is True


def test_whether_a_model_can_be_uploaded_is_asked_before_training(images, hub, tmp_path):
    settings = ("hub.push=true", "hub.name=me/squares")
    process = trained(images, *settings, hub=hub, home=tmp_path, token=None)
    assert "me/squares: nobody is logged in" in error_of(process)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_upload_that_fails_fails_no_training(images, hub, tmp_path):
    hub.failing_commits = 99
    process = trained(images, "hub.push=true", "hub.name=me/squares", hub=hub, home=tmp_path)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    assert "the model isn't on the Hub: me/squares: the Hub refuses (400" in process.stderr
    assert f"to try again: captioning push {tmp_path / 'run'} me/squares" in process.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("hub.push=true",), "hub.name=USER/NAME"),
        (("hub.push=true", "hub.name=squares"), "no name of the form USER/NAME"),
        (("hydra.mode=MULTIRUN", "seed=1,2", "hub.push=true", "hub.name=me/x"), "every job of a sweep"),
    ],
)
def test_a_wish_to_upload_that_can_not_be_met_is_refused_at_once(images, hub, tmp_path, settings, says):
    assert says in error_of(trained(images, *settings, hub=hub, home=tmp_path))
