import functools
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tars import jpeg, write_shards, write_tar

from captioning.data.images import decode, read_bytes
from captioning.data.rows import Columns, RowIssue
from captioning.data.sources.tars import is_shards, tar_shards
from captioning.errors import UserError

CUT = "shard can't be read to its end"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", 3, 2)


def read(path, **columns) -> tuple[list, list[RowIssue]]:
    """All rows of the shards, and what was left out of them."""
    shards = tar_shards(str(path), columns=Columns(**columns))
    issues = list(shards.issues)
    return [row for index in range(len(shards)) for row in shards.read(index, issues.append)], issues


def ids(path, **columns) -> list[str]:
    return [row["id"] for row in read(path, **columns)[0]]


def captions(path, **columns) -> list[list[str]]:
    return [row["captions"] for row in read(path, **columns)[0]]


def issues(path, **columns) -> list[RowIssue]:
    return read(path, **columns)[1]


def one(tmp_path, *members) -> Path:
    return write_tar(tmp_path / "one.tar", members)


def mistake(path, **columns) -> str:
    with pytest.raises(UserError) as caught:
        tar_shards(str(path), columns=Columns(**columns))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------ which shards


@pytest.mark.parametrize(
    "path", ["a.tar", "a.tgz", "a{0..3}.tar.gz", "{a.tar,b.tar}", "https://h/a.tar?key=b", "pipe:cat a", "a::b.tar"]
)
def test_shards_are_known_by_their_names(path):
    assert is_shards(path)


@pytest.mark.parametrize("path", ["a", "a.tar.csv", "https://h/a.csv?of=b.tar", "tar", "a.gz"])
def test_other_data_are_not_taken_for_shards(path):
    assert not is_shards(path)


def test_a_folder_of_shards_is_read_in_the_order_of_their_names(folder):
    assert ids(folder) == ["0/000", "0/001", "0/002", "1/000", "1/001"]


def test_a_single_shard_is_read(folder):
    assert ids(folder / "1.tar") == ["1/000", "1/001"]


def test_a_brace_pattern_is_read(folder):
    assert ids(folder / "{0..1}.tar") == ids(folder)


def test_several_patterns_are_read(folder):
    assert ids(f"{folder / '1.tar'}::{folder / '{0..0}.tar'}") == ["1/000", "1/001", "0/000", "0/001", "0/002"]


def test_the_output_of_a_command_is_read(folder):
    assert [name.partition("/")[2] for name in ids(f"pipe:cat {folder / '1.tar'}")] == ["000", "001"]


@pytest.fixture
def address(folder) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_address_is_read(address):
    assert ids(f"{address}/1.tar?password=secret") == ["1/000", "1/001"]


def test_of_addresses_one_that_is_not_there_is_left_out_when_it_is_read(address):
    rows, left_out = read(f"{address}/{{1..2}}.tar")
    assert len(rows) == 2
    assert [(kind.partition(":")[0], name) for kind, name in left_out] == [(CUT, "2.tar")]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.xz"])
def test_compressed_shards_are_read(tmp_path, suffix):
    mode = "w:xz" if suffix.endswith("xz") else "w:gz"
    write_tar(tmp_path / f"a{suffix}", [("x.jpg", jpeg()), ("x.txt", "y")], mode)
    assert read(tmp_path) == read(tmp_path / f"a{suffix}")
    assert ids(tmp_path) == ["a/x"]
    assert issues(tmp_path) == []


def test_shards_of_one_name_in_several_folders_have_ids_of_their_own(folder):
    write_shards(folder / "more", 1)
    assert ids(folder)[::3] == ["shards/0/000", "shards/1/000"]
    assert ids(folder)[-1] == "more/0/000"


def test_a_password_in_an_address_is_told_to_nobody(address):
    rows, left_out = read(f"{address}/{{1..2}}.tar?password=secret")
    assert "secret" not in f"{rows}{left_out}"


@pytest.mark.parametrize("command", ["exit 3", "head -c 3000 {shard}; exec 1>&-; sleep 0.2; exit 3"])
def test_a_command_that_fails_is_told_by_its_status(folder, command):
    kind, _ = issues(f"pipe:{command.format(shard=folder / '0.tar')}")[-1]
    assert kind == "shard can't be read to its end: its command ended with status 3"


def test_a_command_that_writes_no_tar_is_told_by_that():
    kind, _ = issues("pipe:exec yes")[-1]
    assert kind == "shard can't be read to its end: invalid header"


def test_a_missing_shard_is_known_before_one_is_read(folder):
    shards = tar_shards(str(folder / "{0..2}.tar"))
    assert shards.labels == ("0.tar", "1.tar")
    assert shards.issues == (("shard is missing", str(folder / "2.tar")),)


def test_no_shard_at_all_is_refused(tmp_path):
    assert mistake(tmp_path / "{0..2}.tar").endswith(f"{{0..2}}.tar: no such shard ({tmp_path / '0.tar'}, …)")


def test_a_folder_without_shards_is_refused(tmp_path):
    assert mistake(tmp_path).startswith(f"data.path={tmp_path}: no shards in this folder (looked for *.tar")


def test_a_pattern_that_is_none_is_refused(tmp_path):
    assert "not a pattern of shards" in mistake(f"{tmp_path}/{{0..2.tar")


# ------------------------------------------------------------ what is in a row


def test_a_image_is_that_of_the_shard(tmp_path):
    (row,), _ = read(one(tmp_path, ("x.jpg", jpeg("blue")), ("x.txt", "y")))
    assert decode(read_bytes(row["image"])).getpixel((0, 0)) == (0, 0, 254)


@pytest.mark.parametrize("name", ["x.png", "x.JPEG", "x.webp", "x.tiff", "a/b/x.bmp"])
def test_every_suffix_of_images_is_known(tmp_path, name):
    text = f"{name.rpartition('.')[0]}.txt"
    assert captions(one(tmp_path, (name, jpeg()), (text, "y"))) == [["y"]]


def test_each_line_of_a_text_is_a_caption(tmp_path):
    assert captions(one(tmp_path, ("x.jpg", jpeg()), ("x.txt", "\ufeffone\r\n\n two  words \n"))) == [
        ["one", "two words"]
    ]


@pytest.mark.parametrize("record", ['{"caption": "y"}', '{"captions": ["y", ""]}', '{"text": " y", "url": "z"}'])
def test_captions_may_be_in_a_json(tmp_path, record):
    assert captions(one(tmp_path, ("x.jpg", jpeg()), ("x.json", record))) == [["y"]]


def test_a_text_goes_before_a_json(tmp_path):
    assert captions(one(tmp_path, ("x.jpg", jpeg()), ("x.json", '{"caption": "no"}'), ("x.txt", "y"))) == [["y"]]


def test_a_named_column_of_the_json_goes_before_a_text(tmp_path):
    path = one(tmp_path, ("x.jpg", jpeg()), ("x.json", '{"alt": "y"}'), ("x.txt", "no"))
    assert captions(path, caption="alt") == [["y"]]


def test_a_pattern_names_several_columns_of_the_json(tmp_path):
    path = one(tmp_path, ("x.jpg", jpeg()), ("x.json", '{"alt_1": "y", "alt_2": "z", "other": "no"}'))
    assert captions(path, caption="alt_*") == [["y", "z"]]


def test_a_named_member_holds_the_captions(tmp_path):
    path = one(tmp_path, ("x.jpg", jpeg()), ("x.txt", "no"), ("x.ALT", "y"))
    assert captions(path, caption="ALT") == [["y"]]


def test_of_several_images_the_one_with_nothing_but_a_suffix_is_taken(tmp_path):
    path = one(tmp_path, ("x.mask.jpg", jpeg("red")), ("x.jpg", jpeg("blue")), ("x.txt", "y"))
    (row,), _ = read(path)
    assert read_bytes(row["image"]) == jpeg("blue")


def test_of_several_images_one_can_be_named(tmp_path):
    path = one(tmp_path, ("x.mask.jpg", jpeg("red")), ("x.jpg", jpeg("blue")), ("x.txt", "y"))
    (row,), _ = read(path, image="mask.JPG")
    assert read_bytes(row["image"]) == jpeg("red")


def test_id_group_split_and_stratum_are_read_from_the_json(tmp_path):
    record = '{"caption": "y", "key": 7, "patient": "p", "part": "dev", "site": "s"}'
    path = one(tmp_path, ("x.jpg", jpeg()), ("x.json", record))
    (row,), _ = read(path, id="key", group="patient", split="part", stratify="site")
    assert (row["id"], row["group"], row["split"], row["stratum"]) == ("7", "p", "val", "s")


def test_a_split_is_respected_without_being_named(tmp_path):
    (row,), _ = read(one(tmp_path, ("x.jpg", jpeg()), ("x.json", '{"caption": "y", "split": "test"}')))
    assert row["split"] == "test"


def test_names_that_climb_out_are_only_ids_and_nothing_is_written(tmp_path):
    path = one(tmp_path, ("../../x.jpg", jpeg()), ("../../x.txt", "y"))
    assert ids(path) == ["one/../../x"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_a_shard_is_not_followed(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("x.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.jpg")
        tar.addfile(link)
    write_tar(tmp_path / "a.tar", [("x.txt", "y")], "a")
    assert issues(tmp_path / "a.tar") == [("caption without an image", "a/x")]


# ------------------------------------------------------------ what is left out


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        pytest.param([("x.jpg", jpeg())], "image without a caption", id="no caption"),
        pytest.param([("x.jpg", jpeg()), ("x.json", "{}")], "image without a caption", id="none in the json"),
        pytest.param([("x.txt", "y")], "caption without an image", id="no image"),
        pytest.param([("x.jpg", jpeg()), ("x.txt", " \n")], "empty caption", id="empty"),
        pytest.param([("x.jpg", jpeg()), ("x.txt", b"\xff")], ".txt isn't UTF-8 text", id="not text"),
        pytest.param([("x.jpg", jpeg()), ("x.json", "{oops")], ".json isn't JSON", id="not JSON"),
        pytest.param([("x.jpg", jpeg()), ("x.json", "[" * 99999)], ".json isn't JSON", id="endless JSON"),
        pytest.param([("x.jpg", jpeg()), ("x.json", "[]")], ".json isn't a JSON object", id="no object"),
        pytest.param([("x.jpg", jpeg()), ("x.json", '{"caption": 3}')], "caption isn't text", id="a number"),
        pytest.param([("x.jpg", jpeg()), ("x.json", '{"text": "\\ud83d"}')], "caption isn't valid Unicode", id="half"),
    ],
)
def test_a_bad_row_is_left_out_by_name_and_the_next_one_read(tmp_path, members, kind):
    rows, left_out = read(one(tmp_path, *members, ("z.jpg", jpeg()), ("z.txt", "z")))
    assert [row["id"] for row in rows] == ["one/z"]
    assert left_out == [(kind, "one/x")]


def test_a_member_that_comes_twice_is_named_and_the_first_is_kept(tmp_path):
    rows, left_out = read(one(tmp_path, ("x.jpg", jpeg()), ("x.txt", "first"), ("x.txt", "second")))
    assert rows[0]["captions"] == ["first"]
    assert left_out == [("second member of one name", "one.tar/x.txt")]


def test_a_row_without_the_group_that_was_asked_for_is_left_out(tmp_path):
    path = one(tmp_path, ("x.jpg", jpeg()), ("x.json", '{"caption": "y", "patients": "p"}'))
    assert issues(path, group="patient") == [("data.group_column=patient: no such column in its .json", "one/x")]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_a_shard_that_is_no_tar_is_left_out_and_the_next_one_read(folder, content):
    (folder / "0.tar").write_bytes(content)
    rows, left_out = read(folder)
    assert len(rows) == 2
    assert [(kind.partition(":")[0], name) for kind, name in left_out] == [(CUT, "0.tar")]


def test_a_shard_that_goes_away_is_left_out(folder):
    shards = tar_shards(str(folder))
    (folder / "0.tar").unlink()
    left_out = []
    assert list(shards.read(0, left_out.append)) == []
    assert left_out == [(f"{CUT}: No such file or directory", "0.tar")]


@pytest.mark.parametrize("size", range(100, 10_000, 333))
def test_wherever_a_shard_was_cut_its_whole_rows_are_read_and_it_is_named(tmp_path, size):
    write_shards(tmp_path, 4)
    whole = (tmp_path / "0.tar").read_bytes()
    row = len(whole[: whole.index(b"001.jpg")])
    (tmp_path / "0.tar").write_bytes(whole[:size])
    rows, left_out = read(tmp_path)
    assert len(rows) in (min(size // row, 4), min((size + 511) // row, 4))
    cut = [name for kind, name in left_out if kind.startswith(CUT)]
    assert cut == (["0.tar"] if size <= 4 * row else [])


def test_damage_between_members_is_noticed(tmp_path):
    write_shards(tmp_path, 40)
    content = bytearray((tmp_path / "0.tar").read_bytes())
    header = content.index(b"003.jpg")
    content[header : header + 512] = b"\x07" * 512
    (tmp_path / "0.tar").write_bytes(content)
    rows, left_out = read(tmp_path)
    assert len(rows) == 3
    assert left_out == [(f"{CUT}: it ends too early", "0.tar")]
