import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_data import GOOD, KINDS, Kind, Planted, image, in_metadata, line
from PIL import Image

from captioning import CaptionDataModule
from captioning.errors import UserError

ORPHAN_TIMEOUT_S = 20  # seconds; nothing here takes as long


def kinds(*outcomes: str) -> list[Any]:
    found = [
        pytest.param(kind, id=name, marks=pytest.mark.skipif(kind.skip, reason="can't be made here"))
        for name, kind in KINDS.items()
        if kind.outcome in outcomes
    ]
    assert len(found) > 5
    return found


def data(planted: Planted, **settings: Any) -> CaptionDataModule:
    lenient = {"strict": False, "max_bad_share": 0.5, "processor": None, "image_size": 32, "cache": False}
    return CaptionDataModule(source="local", path=str(planted.path), **(lenient | planted.settings | settings))


def found_in(module: CaptionDataModule) -> dict[str, Image.Image]:
    """The caption of each row, with its image."""
    return {
        captions[0]: module.image(split, row)
        for split in module.splits
        for row, captions in enumerate(module.captions(split))
    }


def given_splits(module: CaptionDataModule) -> dict[str, str | None]:
    return {row["captions"][0]: row["split"] for row in module.rows.table}


def look_alike(one: Image.Image, other: Image.Image) -> bool:
    first, second = (np.asarray(each.convert("RGB").resize((12, 12)), dtype=float) for each in (one, other))
    return bool(np.abs(first - second).mean() < 8)


def reported(module: CaptionDataModule, severity: str) -> dict[str, list[str]]:
    return {kind: names for own, kind, names in module.inspect().issues if own == severity}


def mistake(module: CaptionDataModule) -> str:
    with pytest.raises(UserError) as caught:
        module.setup()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is found of images would be kept for the next run."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home/datasets")


@pytest.fixture
def _impatient(tmp_path: Path) -> Iterator[None]:
    """Ends what waits for a pipe to be written to, and the test has failed."""
    finished, waited = threading.Event(), threading.Event()

    def write() -> None:
        while not finished.wait(0.1 if waited.is_set() else ORPHAN_TIMEOUT_S):
            waited.set()
            for pipe in (path for path in tmp_path.rglob("*") if path.is_fifo()):
                os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # which ends what is read from it

    writer = threading.Thread(target=write)
    writer.start()
    yield
    finished.set()
    writer.join()
    assert not waited.is_set(), "something waited for a pipe"


# ---------------------------------------------------------------- one bad thing


def test_there_are_many_kinds():
    assert len(KINDS) >= 45


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", kinds("harmless"))
def test_what_is_harmless_is_read_right(kind: Kind, tmp_path: Path):
    planted = kind(tmp_path)
    module = data(planted, strict=True)
    module.setup()
    found = found_in(module)
    expected = {caption: image(seed) for caption, seed in GOOD.items()} | {planted.caption: planted.image}
    assert sorted(found) == sorted(expected)
    assert [caption for caption in expected if not look_alike(found[caption], expected[caption])] == []
    assert given_splits(module)[planted.caption] == planted.split
    assert reported(module, "left out") == {}


@pytest.mark.parametrize("kind", [each for each in kinds("harmless") if each.values[0].says])
def test_what_is_unusual_gets_a_notice_that_names_it(kind: Kind, tmp_path: Path):
    planted = kind(tmp_path)
    notices = reported(data(planted), "notice")
    assert [names for says, names in notices.items() if kind.says in says] == [[planted.name]]


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("kind", kinds("bad"))
def test_a_bad_thing_alone_is_left_out_and_named(kind: Kind, tmp_path: Path):
    planted = kind(tmp_path)
    module = data(planted)
    module.setup()
    found = found_in(module)
    assert sorted(found) == sorted(GOOD)
    assert [caption for caption, seed in GOOD.items() if not look_alike(found[caption], image(seed))] == []
    left_out = [(says, name) for says, names in reported(module, "left out").items() for name in names]
    assert any(kind.says in says and planted.name in name for says, name in left_out), left_out


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("kind", kinds("bad"))
def test_a_bad_thing_stops_a_strict_run_in_a_line_that_names_it(kind: Kind, tmp_path: Path):
    planted = kind(tmp_path)
    assert planted.name in mistake(data(planted, strict=True))


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("kind", kinds("hopeless"))
def test_a_source_that_cannot_be_read_is_refused_in_a_line_that_names_it(kind: Kind, strict: bool, tmp_path: Path):
    planted = kind(tmp_path)
    message = mistake(data(planted, strict=strict))
    assert planted.name in message
    assert kind.says in message


# ---------------------------------------------------------------- many


THREE_OF_15 = Kind(lambda root: Planted(in_metadata(root, line("gone-1.png"), line("gone-2.png"), b"{oops")), "bad")


def test_more_than_max_bad_share_stops_the_run_and_names_what_is_bad(tmp_path: Path):
    message = mistake(data(THREE_OF_15(tmp_path), max_bad_share=0.19))
    assert "data.max_bad_share=0.19" in message
    assert "3 of 15" in message
    assert "gone-1.png" in message


def test_no_more_than_max_bad_share_is_let_pass(tmp_path: Path):
    data(THREE_OF_15(tmp_path), max_bad_share=0.2).setup()


def test_inspecting_never_stops_for_bad_rows(tmp_path: Path):
    assert data(THREE_OF_15(tmp_path), strict=True, max_bad_share=0.0).inspect().left_out == 3


# ---------------------------------------------------------------- read before


def test_a_missing_shard_is_named_where_the_others_were_read_before(tmp_path: Path):
    planted = KINDS["a shard missing from a brace pattern"](tmp_path)
    data(Planted(tmp_path / "data/shard-00.tar")).setup()
    assert "shard-01.tar" in mistake(data(planted, strict=True))


# ---------------------------------------------------------------- nothing outside is read

READ_ALL = """
import json, os, sys

opened = set()
sys.addaudithook(lambda event, args: event in ("open", "os.listdir", "os.scandir") and opened.add(args[0]))

from captioning import CaptionDataModule

for settings in json.load(sys.stdin):
    module = CaptionDataModule(source="local", processor=None, image_size=32, cache=False, **settings)
    try:
        module.setup()
    except Exception:  # which other tests judge
        pass
print(json.dumps([os.path.realpath(path) for path in opened if isinstance(path, str)]))
"""


def test_nothing_outside_of_the_data_is_opened_whatever_is_in_it(tmp_path: Path):
    roots = {tmp_path / name: kind for name, kind in KINDS.items() if not kind.skip}
    planted = [kind(root) for root, kind in roots.items()]
    reading = subprocess.run(
        [sys.executable, "-c", READ_ALL],
        input=json.dumps([{"path": str(each.path), "max_bad_share": 0.5, **each.settings} for each in planted]),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    opened = {Path(path) for path in json.loads(reading.stdout.splitlines()[-1])}
    below = {path.relative_to(tmp_path) for path in opened if path.is_relative_to(tmp_path)}
    assert len({path.parts[0] for path in below}) > 0.9 * len(roots)  # Arrow's own code opens files unseen
    assert [path for path in below if path.parts[1] == "outside"] == []
