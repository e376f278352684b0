import os
import unicodedata

import pytest

from captioning.data.sources.paths import ImageFolder
from captioning.errors import shown

OUTSIDE = "image outside of the data folder"


@pytest.fixture
def root(tmp_path):
    """A folder data with a.png and in/b.png, and beside it away/secret.png."""
    for name in ("data/a.png", "data/in/b.png", "away/secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "data"


def error(root, name: str, **settings) -> str:
    found = ImageFolder(root).find(name, **settings)
    assert bool(found.path) != bool(found.error)
    return found.error


@pytest.mark.parametrize(
    "name",
    ["in/b.png", "./in/b.png", "in//b.png", "in\\b.png", ".\\in\\b.png", "in/../in/b.png"],
    ids=lambda name: name,
)
def test_a_image_is_found_as_any_system_writes_its_name(root, name):
    assert ImageFolder(root).find(name) == ("in/b.png", str(root / "in/b.png"), "")


def test_a_name_may_be_relative_to_a_subfolder(root):
    assert ImageFolder(root).find("b.png", base="in") == ("in/b.png", str(root / "in/b.png"), "")


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_accents_and_spaces_are_found_however_they_are_encoded(root, on_disk, written):
    name = "ein café/größe 1.png"
    path = root / unicodedata.normalize(on_disk, name)
    path.parent.mkdir()
    path.touch()
    found = ImageFolder(root).find(unicodedata.normalize(written, name))
    assert found == (name, str(path), "")


def test_an_absolute_name_inside_of_the_folder_is_fine(root):
    assert ImageFolder(root).find(str(root / "in/b.png")).name == "in/b.png"


def test_an_absolute_name_inside_is_fine_by_whatever_link_it_leads_there(root):
    (root.parent / "link").symlink_to(root)
    assert ImageFolder(root).find(str(root.parent / "link/in/b.png")).name == "in/b.png"
    assert ImageFolder(root.parent / "link").find(str(root / "in/b.png")).name == "in/b.png"


def test_the_folder_itself_may_be_a_link(root):
    (root.parent / "link").symlink_to(root)
    assert ImageFolder(root.parent / "link").find("a.png").path == str(root.parent / "link/a.png")


@pytest.mark.parametrize(
    "name",
    ["../away/secret.png", "in/../../away/secret.png", "..\\away\\secret.png", "..", "/etc/passwd", "C:\\secret.png"],
)
def test_a_name_that_leads_out_is_refused(root, name):
    assert error(root, name) == OUTSIDE


def test_an_absolute_name_beside_the_folder_is_refused(root):
    assert error(root, str(root.parent / "away/secret.png")) == OUTSIDE
    (root.parent / "data2").mkdir()
    (root.parent / "data2/a.png").touch()
    assert error(root, str(root.parent / "data2/a.png")) == OUTSIDE


@pytest.mark.parametrize(("link", "target"), [("c.png", "../away/secret.png"), ("out", "../away"), ("in/out", "/")])
def test_a_link_that_leads_out_is_refused(root, link, target):
    (root / link).symlink_to(target)
    assert error(root, link) == OUTSIDE
    assert error(root, f"{link}/secret.png") == OUTSIDE


def test_a_link_within_the_folder_is_followed(root):
    (root / "c.png").symlink_to(root / "in" / "b.png")
    (root / "also").symlink_to("in")
    assert ImageFolder(root).find("c.png").path == str(root / "c.png")
    assert ImageFolder(root).find("also/b.png").path == str(root / "also/b.png")


def test_links_in_a_circle_end(root):
    (root / "in" / "up").symlink_to("..")
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    folder = ImageFolder(root)
    assert folder.files() == ["a.png", "in/b.png"]
    assert not folder.find("in/up/in/up/a.png").error
    assert folder.find("x").error == "image is missing"


@pytest.mark.parametrize("name", ["gone.png", "gone/a.png", "a.png/b.png", "in/a\0.png", "x" * 5000, "\ud800.png"])
def test_a_image_that_is_not_there_is_missing(root, name):
    assert error(root, name) == "image is missing"


def test_a_broken_link_is_missing(root):
    (root / "c.png").symlink_to("gone.png")
    assert error(root, "c.png") == "image is missing"


@pytest.mark.parametrize("name", ["in", ".", "in/", "x.png", "pipe.png"])
def test_a_folder_or_a_pipe_is_no_file(root, name):
    (root / "x.png").mkdir()
    os.mkfifo(root / "pipe.png")
    assert error(root, name) == "image is no file"


def test_a_folder_that_may_not_be_read_is_named_as_such(root):
    if os.geteuid() == 0:
        pytest.skip("nothing is closed to root")
    (root / "in").chmod(0)
    assert error(root, "in/b.png") == "folder can't be read: Permission denied"
    (root / "in").chmod(0o700)


@pytest.mark.parametrize(
    "address", ["https://example.org/x/a.png", "http://example.org/a.png?size=3#top", "s3://bucket/some/a.png"]
)
def test_of_an_address_the_last_part_is_the_file(root, address):
    assert ImageFolder(root).find(address).name == "a.png"


def test_of_an_address_the_file_may_be_called_as_it_is_written_there(root):
    (root / "a b.png").touch()
    (root / "a%20c.png").touch()
    assert ImageFolder(root).find("https://example.org/a%20b.png").name == "a b.png"
    assert ImageFolder(root).find("https://example.org/a%20c.png").name == "a%20c.png"


def test_an_address_cannot_lead_out(root):
    assert error(root, "https://example.org/..%2Faway%2Fsecret.png")


def test_a_image_is_looked_for_in_the_named_subfolders_too(root):
    folder = ImageFolder(root, subfolders=("nowhere", "in"))
    assert folder.find("b.png").name == "in/b.png"
    assert folder.find("c.png").error == "image is missing"


def test_the_hubs_cache_may_link_to_the_files_beside_its_snapshots(tmp_path):
    snapshot = tmp_path / "datasets--user--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    (snapshot.parents[1] / "blobs" / "4567").touch()
    (snapshot / "a.png").symlink_to("../../blobs/4567")
    (tmp_path / "secret").touch()
    (snapshot / "b.png").symlink_to("../../../secret")
    assert ImageFolder(snapshot).find("a.png").path == str(snapshot / "a.png")
    assert error(snapshot, "b.png") == OUTSIDE


@pytest.mark.parametrize(
    ("name", "expected"),
    [("größe 1.png", "größe 1.png"), ("a\nb\0", "a\\nb\\x00"), ("\ud800", "\\ud800"), ("", "(no name)")],
)
def test_any_name_is_shown_in_one_line(name, expected):
    assert shown(name) == expected
