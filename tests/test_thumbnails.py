import io

from PIL import Image

from captioning.runs.run_folder import RunFolder


def test_thumbnails_are_small_and_keep_their_shape(tmp_path):
    run = RunFolder(tmp_path)
    run.add_thumbnails("val", {"wide.png": Image.new("RGB", (1000, 500), "red")})
    image = Image.open(io.BytesIO(run.thumbnails["val", "wide.png"]))
    assert (image.format, image.size) == ("JPEG", (128, 64))


def test_a_small_image_stays_small(tmp_path):
    run = RunFolder(tmp_path)
    run.add_thumbnails("val", {"dot.png": Image.new("RGB", (3, 2))})
    assert Image.open(io.BytesIO(run.thumbnails["val", "dot.png"])).size == (3, 2)


def test_thumbnails_are_added_to_those_that_are_there(tmp_path):
    image = Image.new("RGB", (8, 8))
    for split, name in (("val", "a"), ("test", "a"), ("val", "b"), ("val", "a")):
        RunFolder(tmp_path).add_thumbnails(split, {name: image})
    assert RunFolder(tmp_path).thumbnails.keys() == {("val", "a"), ("test", "a"), ("val", "b")}


def test_nothing_but_the_file_is_left(tmp_path):
    RunFolder(tmp_path).add_thumbnails("val", {})
    assert [path.name for path in tmp_path.iterdir()] == ["thumbnails.parquet"]
    assert RunFolder(tmp_path).thumbnails == {}
