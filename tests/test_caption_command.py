import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from started import started
from typer.testing import CliRunner, Result

from captioning import Captioner
from captioning.cli import app
from captioning.errors import UserError
from captioning.inference.captioner import local_device
from captioning.inference.folder import Summary, caption_images
from captioning.inference.inputs import find_images, read_list
from captioning.inference.outputs import make_output
from captioning.training.signals import INTERRUPTED

CAPTIONING = Path(sys.executable).with_name("captioning")
SHORT = {"max_new_tokens": 5, "min_new_tokens": 2}
OPTIONS = ("--max-new-tokens", "5", "--min-new-tokens", "2")
READERS = {
    "txt": lambda path: [tuple(line.split("\t")) for line in path.read_text().splitlines()],
    "jsonl": lambda path: [(row["path"], row["caption"]) for row in map(json.loads, path.read_text().splitlines())],
    "csv": lambda path: [(row["path"], row["caption"]) for row in csv.DictReader(path.open(newline=""))],
    "parquet": lambda path: [(row["path"], row["caption"]) for row in pyarrow.parquet.read_table(path).to_pylist()],
}


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, two of them in a folder of their own, one that is broken, and other files."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    for number, file in enumerate(sorted(images.glob("*.png"))[:6]):
        shutil.copy(file, folder / ("more" if number < 2 else "") / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path, folder: Path) -> dict[str, str]:
    files = [str(folder / name) for name in ("2.png", "3.png", "4.png", "5.png", "more/0.png", "more/1.png")]
    captions = Captioner.from_pretrained(checkpoint)(files, **SHORT)
    return dict(zip(files, captions, strict=True))


def ran(*command: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [str(part) for part in command], input=stdin)


def captioned(checkpoint: Path, folder: Path | str, file: Path | None, **options: object) -> Summary:
    found = find_images([str(folder)])
    shard = options.pop("shard", None)
    output = make_output(found.images, file=file, sidecars=file is None, shard=shard)
    images = found.images[shard[0] :: shard[1]] if shard else found.images
    summary = Summary(len(images), dict(found.failed))
    caption_images(str(checkpoint), images, output, summary, **{**SHORT, **options})
    return summary


# ------------------------------------------------------------ which images


def test_a_folder_is_all_its_images_sorted_with_those_of_its_folders_after_its_own(folder):
    names = [Path(path).relative_to(folder).as_posix() for path in find_images([str(folder)]).images]
    assert names == ["2.png", "3.png", "4.png", "5.png", "bad.png", "more/0.png", "more/1.png"]


def test_a_pattern_goes_through_folders(folder):
    names = [Path(path).name for path in find_images([f"{folder}/**/[01]*"]).images]
    assert names == ["0.png", "1.png"]


def test_a_folder_that_links_to_itself_is_read_once(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "images")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images", target_is_directory=True)
    assert len(find_images([str(tmp_path)]).images) == 7


def test_a_link_to_images_elsewhere_is_followed(folder, tmp_path):
    (tmp_path / "elsewhere").symlink_to(folder / "more", target_is_directory=True)
    assert find_images([str(tmp_path)]).images == [f"{tmp_path}/elsewhere/{name}.png" for name in (0, 1)]


def test_an_image_that_is_named_twice_is_captioned_once(folder):
    named = [f"{folder}/2.png", f"{folder}/./2.png", f"{folder}/more/../2.png"]
    assert find_images(named).images == [f"{folder}/2.png"]


def test_a_name_with_the_letters_of_a_pattern_is_the_file_of_that_name(folder, tmp_path):
    shutil.copy(folder / "2.png", tmp_path / "a[1].png")
    assert find_images([f"{tmp_path}/a[1].png"]).images == [f"{tmp_path}/a[1].png"]


@pytest.mark.parametrize("inputs", [["nowhere"], ["nowhere/*.png"], []])
def test_no_image_at_all_is_a_mistake(inputs):
    with pytest.raises(UserError, match=r"no such file or folder|no images"):
        find_images(inputs)


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_a_list_has_a_name_in_each_line_or_between_nuls(separator):
    assert read_list(separator.join([b"a b.png", b"c.png", b""])) == ["a b.png", "c.png"]


def test_a_list_on_standard_input_is_captioned(checkpoint, folder, expected):
    files = sorted(expected)[:2]
    process = ran("caption", checkpoint, *OPTIONS, stdin="\n".join(files))
    assert process.stdout.splitlines() == [f"{file}\t{expected[file]}" for file in files]


# ------------------------------------------------------------ where captions go


@pytest.mark.parametrize("kind", READERS)
def test_a_file_has_each_caption_once(checkpoint, folder, expected, tmp_path, kind):
    counts = captioned(checkpoint, folder, tmp_path / f"captions.{kind}")
    assert READERS[kind](tmp_path / f"captions.{kind}") == list(expected.items())
    assert (counts.captioned, list(counts.failed)) == (6, [f"{folder}/bad.png"])
    assert [file.name for file in tmp_path.iterdir()] == [f"captions.{kind}"]


@pytest.mark.parametrize("kind", READERS)
def test_what_has_a_caption_is_skipped_and_the_rest_is_added(checkpoint, folder, expected, tmp_path, kind):
    file = tmp_path / f"captions.{kind}"
    captioned(checkpoint, folder / "more", file)
    counts = captioned(checkpoint, folder, file)
    assert (counts.skipped, counts.captioned) == (2, 4)
    assert sorted(READERS[kind](file)) == sorted(expected.items())


def test_a_row_that_was_cut_off_is_written_again(checkpoint, folder, expected, tmp_path):
    file = tmp_path / "captions.jsonl"
    captioned(checkpoint, folder, file)
    file.write_bytes(file.read_bytes()[:-7])
    assert captioned(checkpoint, folder, file).captioned == 1
    assert READERS["jsonl"](file) == list(expected.items())


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_a_file_that_was_written_before_its_hidden_rows_were_removed_has_none_twice(
    checkpoint, folder, expected, tmp_path, kind
):
    file = tmp_path / f"captions.{kind}"
    captioned(checkpoint, folder, file)
    rows = [{"path": path, "caption": caption, "score": -1.0} for path, caption in READERS[kind](file)]
    (tmp_path / f".captions.{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"path": "cut')
    assert captioned(checkpoint, folder, file).captioned == 0
    assert READERS[kind](file) == list(expected.items())
    assert [file.name for file in tmp_path.iterdir()] == [f"captions.{kind}"]


def test_csv_holds_any_name_and_caption(checkpoint, folder, tmp_path):
    names = [f"{tmp_path}/images/a\nb,c.png", f'{tmp_path}/images/say "NA".png']
    (tmp_path / "images").mkdir()
    for name in names:
        shutil.copy(folder / "2.png", name)
    for summary in [captioned(checkpoint, tmp_path / "images", tmp_path / "a.csv") for _ in range(2)]:
        assert not summary.failed
    assert [path for path, _ in READERS["csv"](tmp_path / "a.csv")] == names


def test_sidecars_are_beside_the_images_and_those_that_are_there_stay(checkpoint, folder, expected, tmp_path):
    shutil.copytree(folder, tmp_path / "images")
    (tmp_path / "images" / "2.txt").write_text("mine\n")
    (tmp_path / "images" / "3.txt").write_text("")
    captioned(checkpoint, tmp_path / "images", None)
    sidecars = {path.relative_to(tmp_path / "images"): path for path in tmp_path.rglob("*.txt")}
    texts = {str(folder / name.with_suffix(".png")): path.read_text().rstrip() for name, path in sidecars.items()}
    assert texts == expected | {f"{folder}/2.png": "mine"}


def test_two_images_whose_sidecars_would_be_one_are_refused(folder, tmp_path):
    for name in ("a.png", "a.jpg"):
        shutil.copy(folder / "2.png", tmp_path / name)
    with pytest.raises(UserError, match=r"a\.png: its caption would be in .*a\.txt, as that of .*a\.jpg"):
        make_output(find_images([str(tmp_path)]).images, file=None, sidecars=True)


def test_with_overwrite_all_are_captioned_again(checkpoint, folder, expected, tmp_path):
    file = tmp_path / "captions.jsonl"
    captioned(checkpoint, folder, file, prefix="a red")
    captioned(checkpoint, folder, file, overwrite=True)
    assert READERS["jsonl"](file) == list(expected.items())


def test_with_overwrite_a_model_that_is_not_there_leaves_the_file_as_it_was(folder, tmp_path):
    file = tmp_path / "captions.jsonl"
    file.write_text("{}\n")
    with pytest.raises(UserError):
        captioned(tmp_path / "nowhere", folder, file, overwrite=True)
    assert file.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "[1]\n"),
        ("a.csv", "x,y\n"),
        ("a.csv", "path,caption,score,mine\n"),
        ("a.txt", "hello\n"),
        ("a.parquet", "x"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_was(checkpoint, folder, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"can't be read as captions .*name another file"):
        captioned(checkpoint, folder, tmp_path / name)
    assert (tmp_path / name).read_text() == content


def test_a_name_that_lines_cannot_hold_fails_with_the_way_out(checkpoint, folder, tmp_path):
    shutil.copy(folder / "2.png", tmp_path / "a\tb.png")
    counts = captioned(checkpoint, tmp_path, tmp_path / "captions.txt")
    assert list(counts.failed.values()) == [
        "a tab or line break in its name, which lines can't hold; .jsonl or .csv can"
    ]


def test_trigger_and_suffix_are_written_around_and_the_prefix_is_continued(checkpoint, folder):
    given = ("--trigger", "sks", "--suffix", ", drawn", "--prefix", "a red", *OPTIONS)
    process = ran("caption", checkpoint, folder / "2.png", *given)
    seen_by_model = Captioner.from_pretrained(checkpoint)(folder / "2.png", prefix="a red", **SHORT)
    assert process.stdout == f"{folder / '2.png'}\tsks, {seen_by_model}, drawn\n"


# ------------------------------------------------------------ how it ends


def test_images_that_fail_are_listed_at_the_end_and_change_the_exit_status(checkpoint, folder, tmp_path):
    process = ran("caption", checkpoint, folder, *OPTIONS, "-o", tmp_path / "a.jsonl", "--errors", tmp_path / "e.jsonl")
    assert process.exit_code == 2
    assert process.stderr.splitlines() == [
        f"{folder}/bad.png: not an image",
        f"6 images captioned, 1 failed: {tmp_path}/a.jsonl",
    ]
    assert json.loads((tmp_path / "e.jsonl").read_text()) == {"path": f"{folder}/bad.png", "error": "not an image"}


def test_where_all_have_a_caption_the_exit_status_is_0(checkpoint, folder, tmp_path):
    assert ran("caption", checkpoint, folder / "more", *OPTIONS, "-o", tmp_path / "a.csv").exit_code == 0


def many(folder: Path, image: Path, count: int) -> list[str]:
    folder.mkdir()
    for number in range(count):
        shutil.copy(image, folder / f"{number:03}.png")
    return [str(folder / f"{number:03}.png") for number in range(count)]


def kill_once_there_are(rows: int, file: Path, number: int, command: list[str]) -> int:
    """Its exit status; rows are those of the JSON Lines that grow."""
    with started(command, folder=file.parent) as [process]:
        while process.process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < rows):
            time.sleep(0.001)
        if process.process.poll() is None:
            os.kill(process.process.pid, number)
        return process.ended()


@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        ("csv", [7]),
        *(
            pytest.param(kind, sorted(random.Random(kind).sample(range(1, 300), 20)), marks=pytest.mark.slow)
            for kind in READERS
        ),
    ],
)
def test_killed_at_any_moment_it_ends_with_one_caption_for_each(checkpoint, folder, tmp_path, kind, moments):
    files = many(tmp_path / "images", folder / "2.png", 300)
    file = tmp_path / f"captions.{kind}"
    growing = file if kind == "jsonl" else tmp_path / f".captions.{kind}.jsonl"
    command = [str(CAPTIONING), "caption", str(checkpoint), "images", "-o", str(file), "--batch-size", "2", *OPTIONS]
    for rows in moments:
        assert kill_once_there_are(rows, growing, signal.SIGKILL, command) == -signal.SIGKILL
    assert kill_once_there_are(1000, growing, signal.SIGKILL, command) == 0
    assert sorted(path for path, _ in READERS[kind](file)) == [os.path.relpath(path, tmp_path) for path in files]


def test_ctrl_c_ends_it_with_what_is_left_to_do_and_the_status_of_what_can_go_on(checkpoint, folder, tmp_path):
    many(tmp_path / "images", folder / "2.png", 200)
    file = tmp_path / "captions.jsonl"
    command = [str(CAPTIONING), "caption", str(checkpoint), "images", "-o", str(file), "--batch-size", "1", *OPTIONS]
    assert kill_once_there_are(3, file, signal.SIGINT, command) == INTERRUPTED
    assert 3 <= len(READERS["jsonl"](file)) < 200


def test_a_second_process_does_not_write_into_the_same_file(checkpoint, folder, tmp_path):
    inputs = find_images([str(folder)])
    output = make_output(inputs.images, file=tmp_path / "a.jsonl")
    with output.open(overwrite=False), pytest.raises(UserError, match="another process is writing captions there"):
        captioned(checkpoint, folder, tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"file": "a.xyz"}, r"--output .*a\.xyz: name it \*\.txt"),
        ({"file": "no/where.csv"}, r"--output .*where\.csv: name a file, in a folder that exists"),
        ({"form": "xml"}, "--format xml: no such format; there are lines, jsonl, csv, parquet"),
        ({"form": "parquet"}, "--format parquet: not on standard output"),
        ({"form": "csv"}, "--format csv: not on standard output"),
        ({"sidecars": True, "file": "a.csv"}, "--sidecars writes a .txt beside each image"),
    ],
)
def test_an_output_that_cannot_be_is_a_mistake(tmp_path, wanted, message):
    file = tmp_path / wanted["file"] if "file" in wanted else None
    with pytest.raises(UserError, match=message):
        make_output([], **{**wanted, "file": file})


def test_a_mistake_is_answered_in_a_line(checkpoint, folder):
    process = ran("caption", checkpoint, folder, "--num-beams", "0")
    assert (process.exit_code, len(process.stderr.splitlines())) == (1, 1)


def test_a_folder_in_place_of_the_model_is_named_before_the_images_are_looked_for(folder):
    process = ran("caption", folder, "a-run")
    assert process.stderr.startswith(f"error: {folder}: holds no model; give a run folder")


# ------------------------------------------------------------ several processes


def parts_of(file: Path) -> dict[str, list[tuple[str, str]]]:
    kind = file.suffix.removeprefix(".")
    return {part.name: READERS[kind](part) for part in sorted(file.parent.glob(f"{file.stem}-*{file.suffix}"))}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_shards_caption_each_image_once_into_files_of_their_own(checkpoint, folder, expected, tmp_path, kind):
    file = tmp_path / f"captions.{kind}"
    summaries = [captioned(checkpoint, folder, file, shard=(index, 3)) for index in range(3)]
    assert [summary.total for summary in summaries] == [3, 2, 2]
    assert list(parts_of(file)) == [f"captions-0000{index}-of-00003.{kind}" for index in range(3)]
    assert sorted(row for rows in parts_of(file).values() for row in rows) == sorted(expected.items())


def test_what_other_shards_captioned_is_skipped_also_when_there_are_more_or_fewer_of_them(
    checkpoint, folder, expected, tmp_path
):
    file = tmp_path / "captions.csv"
    captioned(checkpoint, folder / "more", file)
    captioned(checkpoint, folder, file, shard=(1, 3))
    summaries = [captioned(checkpoint, folder, file, shard=(index, 2)) for index in range(2)]
    assert sum(summary.captioned for summary in summaries) == 3
    rows = [row for rows in [*parts_of(file).values(), READERS["csv"](file)] for row in rows]
    assert sorted(rows) == sorted(expected.items())


def test_with_overwrite_shards_replace_those_of_another_number_of_processes(checkpoint, folder, expected, tmp_path):
    file = tmp_path / "captions.jsonl"
    for index in range(3):
        captioned(checkpoint, folder, file, shard=(index, 3))
    for index in range(2):
        captioned(checkpoint, folder, file, shard=(index, 2), overwrite=True)
    assert list(parts_of(file)) == [f"captions-0000{index}-of-00002.jsonl" for index in range(2)]
    assert sorted(row for rows in parts_of(file).values() for row in rows) == sorted(expected.items())


def test_two_processes_of_torchrun_take_a_share_each_and_a_failed_image_ends_neither(
    checkpoint, folder, expected, tmp_path
):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node=2", "--standalone"]
    given = ["caption", checkpoint, folder, "-o", tmp_path / "a.jsonl", "--errors", tmp_path / "errors.jsonl", *OPTIONS]
    process = subprocess.run([*torchrun, CAPTIONING, *map(str, given)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    parts = parts_of(tmp_path / "a.jsonl")
    assert [len(rows) for rows in parts.values()] == [3, 3]
    assert sorted(row for rows in parts.values() for row in rows) == sorted(expected.items())
    (errors,) = tmp_path.glob("errors-*.jsonl")
    assert json.loads(errors.read_text())["path"] == f"{folder}/bad.png"


def test_a_task_of_srun_takes_its_share(checkpoint, folder, expected, tmp_path, monkeypatch):
    for name, value in {"JOB_ID": "1", "STEP_ID": "0", "NTASKS": "4", "PROCID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert ran("caption", checkpoint, folder, "-o", tmp_path / "a.jsonl", *OPTIONS).exit_code == 0
    assert parts_of(tmp_path / "a.jsonl") == {"a-00003-of-00004.jsonl": [list(expected.items())[3]]}


def test_each_process_of_a_machine_has_an_accelerator_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device() == "cuda:3"


@pytest.mark.parametrize("shard", ["4/4", "1", "-1/2", "a/b"])
def test_a_shard_that_is_not_one_of_them_is_named(checkpoint, folder, shard):
    process = ran("caption", checkpoint, folder, f"--shard={shard}")
    assert process.stderr == f"error: --shard {shard}: give I/N, from 0/4 to 3/4 for four processes\n"
