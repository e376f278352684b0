"""The issues of the data, and whether they allow a training."""

from collections.abc import Sequence

import pytest
from PIL import Image
from rows import make_rows

from captioning.data.cache import ImageInfo
from captioning.data.duplicates import perceptual_hash
from captioning.data.issues import LEAK, LEFT_OUT, NOTICE, DataReport, Issue, find_issues
from captioning.data.rows import RowIssue, Rows
from captioning.models.processor import make_processor

GOOD = ImageInfo(error="", width=64, height=48, mode="RGB")


def rows_of(captions: Sequence[Sequence[str]], issues: Sequence[RowIssue] = ()) -> Rows:
    ids = [f"{number:02}.png" for number in range(len(captions))]
    none = [None] * len(ids)
    return make_rows(ids=ids, images=none, captions=[list(c) for c in captions], splits=none, issues=issues)


def images(count: int, **of_first: object) -> list[ImageInfo]:
    infos = [GOOD._replace(digest=str(number)) for number in range(count)]
    return [infos[0]._replace(**of_first), *infos[1:]] if infos else []


def found(captions, *, infos=None, splits=None, pairs=(), issues=(), tokenizer=None, max_caption_tokens=40):
    """Names by severity and kind."""
    rows = rows_of(captions, issues)
    infos = infos or images(len(captions))
    splits = splits or {"train": list(range(len(captions)))}
    listed = find_issues(rows, infos, splits, pairs, tokenizer=tokenizer, max_caption_tokens=max_caption_tokens)
    return {(severity, kind): names for severity, kind, names in listed}


def captions(count: int) -> list[list[str]]:
    """Captions that nothing is to be said of."""
    return [[f"an image of the number {number}"] for number in range(count)]


# ------------------------------------------------------------ what is found


def test_of_good_data_nothing_is_said():
    splits = {"train": list(range(20)), "val": list(range(20, 40)), "test": list(range(40, 60))}
    assert found(captions(60), splits=splits) == {}


def test_what_was_left_out_is_told_by_kind_with_all_its_names():
    issues = [RowIssue("empty file", f"{number}.png") for number in range(100)] + [RowIssue("no caption", "x.png")]
    assert found(captions(2), issues=issues) == {
        (LEFT_OUT, "empty file"): [f"{number}.png" for number in range(100)],
        (LEFT_OUT, "no caption"): ["x.png"],
    }


def test_the_gravest_is_told_first_and_of_those_the_most_frequent():
    issues = [RowIssue("one", "x"), RowIssue("two", "y"), RowIssue("two", "z")]
    kinds = list(found(captions(4), issues=issues, splits={"train": [0, 1, 2], "val": [3]}, pairs=[(0, 3), (0, 1)]))
    assert [severity for severity, _ in kinds] == [LEFT_OUT, LEFT_OUT, LEAK, NOTICE, NOTICE]
    assert [kind for _, kind in kinds][:2] == ["two", "one"]


def test_near_duplicates_in_one_split_are_noticed():
    assert found(captions(3), pairs=[(0, 2)]) == {(NOTICE, "near-duplicates"): ["00.png ~ 02.png"]}


def test_near_duplicates_in_two_splits_are_a_leak_that_names_both():
    splits = {"train": [0, 3], "val": [2], "test": [1]}
    leaks = {
        key: names for key, names in found(captions(4), splits=splits, pairs=[(0, 1), (1, 2)]).items() if key[0] == LEAK
    }
    assert leaks == {
        (LEAK, "near-duplicates, in train and test"): ["00.png ~ 01.png"],
        (LEAK, "near-duplicates, in train and val"): [
            "00.png ~ 02.png"
        ],  # which are no pair, but alike with one between
    }


def test_the_same_file_twice_is_told_from_a_near_duplicate():
    assert found(captions(2), infos=[GOOD, GOOD], pairs=[(0, 1)]) == {
        (NOTICE, "the same image twice"): ["00.png ~ 01.png"]
    }


def test_a_split_too_small_to_measure_on_is_noticed():
    splits = {"train": [0], "val": list(range(1, 21)), "test": list(range(21, 40))}
    assert found(captions(40), splits=splits) == {
        (NOTICE, "split of fewer than 20 images, whose numbers are noise"): ["test (19)"]
    }


@pytest.mark.parametrize(
    ("fact", "kinds"),
    [
        ({"width": 31, "height": 100}, ["image with a side under 32 pixels"]),
        ({"width": 32, "height": 32}, []),
        (
            {"width": 501, "height": 100},
            ["image more than 5 times as long as wide: little of it is left in a square"],
        ),
        ({"width": 100, "height": 500}, []),
        ({"width": 10_000, "height": 5_001}, ["image of over 50 megapixels, which takes long to read"]),
        ({"mode": "CMYK"}, ["image in mode CMYK, converted to RGB"]),
        ({"mode": "P"}, []),
        ({"rotated": True}, ["image turned upright as its EXIF says"]),
        ({"frames": 2}, ["animated image, of which the first frame is used"]),
        ({"perceptual_hash": perceptual_hash(Image.new("RGB", (64, 48), "teal"))}, ["image of a single color"]),
        ({"perceptual_hash": perceptual_hash(Image.linear_gradient("L").convert("RGB"))}, []),
    ],
)
def test_an_odd_image_is_noticed(fact, kinds):
    assert found(captions(3), infos=images(3, **fact)) == {(NOTICE, kind): ["00.png"] for kind in kinds}


SPOILT = "caption in the wrong encoding, such as Ã© for é"
FILE_NAME, ADDRESS, HTML = "caption that looks like a file name", "caption with a web address", "caption with HTML"


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("un café noir".encode().decode("cp1252"), SPOILT),
        ("a dog\u2019s bowl".encode().decode("cp1252"), SPOILT),
        ("привет".encode().decode("cp1252"), SPOILT),
        ("a caf\ufffd", SPOILT),
        ("IMG_1234.JPG", FILE_NAME),
        ("DSC00012", FILE_NAME),
        ("photos/cat.png", FILE_NAME),
        ("see https://example.com/a", ADDRESS),
        ("from www.example.com", ADDRESS),
        ("a <b>red</b> cat", HTML),
        ("salt &amp; pepper", HTML),
        ("a dog&#39;s bowl", HTML),
        ("word " * 201, "caption of over 1,000 characters"),
    ],
)
def test_an_odd_caption_is_noticed(caption, kind):
    assert found([["a cat on a mat", caption], ["a dog"], ["a house"]]) == {(NOTICE, kind): ["00.png"]}


@pytest.mark.parametrize(
    "caption",
    [
        "un café à São Paulo, «très noir»…",
        "„macht Spaß”, sagt er",
        "NÃO ENTRE: 25 °C",
        "привет, мир",
        "猫がソファの上にいる",
        "قطة على أريكة",
        "5 < 6 and 7 > 3",
        "AT&T; R&D",
        "a file of type .png in a folder",
        "version 2.0 of a www",
    ],
)
def test_an_ordinary_caption_is_not_noticed(caption):
    assert found([[caption], ["a dog"], ["a house"]]) == {}


def test_a_caption_that_an_image_has_twice_is_noticed():
    assert found([["a cat", "a dog", "a cat"], ["a cat"]]) == {
        (NOTICE, "the same caption more than once for an image"): ["00.png"]
    }


def test_a_caption_of_many_images_is_named_with_their_number():
    kind = "one caption for 5 % or more of the images"
    assert found([*captions(190), *[["a cat", "a cat on a mat"]] * 10]) == {
        (NOTICE, kind): ['"a cat" (10 of 200 images)', '"a cat on a mat" (10 of 200 images)']
    }
    assert found([*captions(191), *[["a cat"]] * 9]) == {}  # too few to mean anything
    assert found([*captions(191), *[["a cat"]] * 10]) == {}  # below a twentieth


def test_a_caption_that_an_image_has_twice_counts_once_for_its_frequency():
    assert found([*captions(95), *[["a cat", "a cat"]] * 5]).keys() == {
        (NOTICE, "the same caption more than once for an image")
    }


def test_captions_of_a_single_word_are_noticed_where_most_are():
    kind = "caption of a single word, as more than half of all captions are"
    assert found([["cat"], ["dog"], ["a house"]]) == {(NOTICE, kind): ["00.png", "01.png"]}
    assert found([["cat"], ["a dog"]]) == {}


def test_a_caption_in_a_script_without_spaces_is_not_taken_for_a_word():
    assert found([["猫がソファの上にいる"], ["แมวบนโซฟา"], ["一只猫"]]) == {}


@pytest.fixture(scope="module")
def tokenizer():
    """It knows the ten digits and the words of :func:`captions`, no letters."""
    return make_processor([c for of in captions(10) for c in of], image_size=32, max_caption_tokens=40).tokenizer


def test_a_caption_that_will_be_cut_is_noticed_with_start_and_end_counted(tokenizer):
    kind = "caption longer than data.max_caption_tokens=8, which is cut there"
    fits, cut = "an image of the number 1", "an image of the number 1 1"  # 6 and 7 words, and two special tokens
    assert found([[fits], [fits, cut]], tokenizer=tokenizer, max_caption_tokens=8) == {(NOTICE, kind): ["01.png"]}


def test_unknown_words_are_named_the_most_frequent_first(tokenizer):
    kind = "word that the tokenizer doesn't know; together they are over 1 % of all tokens"
    unknown = found([["a 犬 image"], ["a 猫 image"], ["the 猫"], ["the number 1"]], tokenizer=tokenizer)
    assert unknown == {(NOTICE, kind): ["猫", "犬"]}


def test_a_few_unknown_words_are_not_noticed(tokenizer):
    unknown, known = [["a 犬 image"]], captions(10) * 9  # 3 tokens, and 540
    assert found([*unknown * 5, *known], tokenizer=tokenizer) == {}  # 5 of 555
    assert found([*unknown * 6, *known], tokenizer=tokenizer) != {}  # 6 of 558, not counting starts and ends


def test_without_a_tokenizer_nothing_is_said_of_tokens():
    assert found([["犬 " * 100], ["a house"]], max_caption_tokens=8) == {}


# ------------------------------------------------------------ whether a training may start


def report(issues: list[Issue], *, usable: int = 90, total: int = 100) -> DataReport:
    numbers = list(range(usable))
    return DataReport(rows_of(captions(usable)), images(usable), {"train": numbers}, [], issues, total)


LOST = [Issue(LEFT_OUT, "empty file", [f"{number}.png" for number in range(10)])]
LEAKING = [Issue(LEAK, "near-duplicates, in train and val", ["a.png ~ b.png"])]
NOTICED = [Issue(NOTICE, "caption with HTML", ["c.png"])]


@pytest.mark.parametrize(
    ("issues", "strict", "share", "reason"),
    [
        ([], True, 0.0, None),
        (NOTICED, True, 0.0, None),
        (LOST, False, 0.1, None),
        (LEAKING, False, 0.0, None),
        (
            LOST,
            False,
            0.09,
            "10 of 100 left out, more than data.max_bad_share=0.09: 10 x empty file: 0.png, 1.png, 2.png, …; fix or "
            "remove them (`captioning check` names all), or use the rest with data.max_bad_share=0.1",
        ),
        (
            [*LOST, *LEAKING],
            True,
            1.0,
            "data.strict=true doesn't allow for 10 of 100 left out (10 x empty file: 0.png, 1.png, 2.png, …) and 1 "
            "pair on two sides of the splits (1 x near-duplicates, in train and val: a.png ~ b.png); fix or "
            "remove them (`captioning check` names all), or set data.strict=false",
        ),
    ],
)
def test_what_stops_a_training_names_the_setting_the_first_names_and_the_way_out(issues, strict, share, reason):
    assert report(issues).blocking_reason(strict=strict, max_bad_share=share) == reason


def test_of_many_kinds_the_first_stand_in_the_line():
    kinds = [Issue(LEFT_OUT, f"kind {number}", ["x"]) for number in range(5)]
    line = str(report(kinds).blocking_reason(strict=True, max_bad_share=1.0))
    assert "(1 x kind 0: x; 1 x kind 1: x; 1 x kind 2: x; and 2 more kinds)" in line


def test_a_leak_alone_stops_a_strict_training():
    assert "allow for 1 pair on two sides of the splits (" in str(
        report(LEAKING).blocking_reason(strict=True, max_bad_share=1.0)
    )


def test_the_share_that_is_offered_is_enough():
    third = report([Issue(LEFT_OUT, "empty file", ["x"])], usable=2, total=3)
    assert "data.max_bad_share=0.34" in str(third.blocking_reason(strict=False, max_bad_share=0.1))
    assert third.blocking_reason(strict=False, max_bad_share=0.34) is None


def test_without_a_usable_row_no_setting_helps():
    nothing = report(LOST, usable=0, total=10)
    assert nothing.blocking_reason(strict=False, max_bad_share=1.0) == (
        "nothing usable among the 10 seen: 10 x empty file: 0.png, 1.png, 2.png, …"
    )


@pytest.mark.parametrize(
    ("issues", "summary"),
    [
        (NOTICED, "ready: 90 images, nothing left out"),
        (LEAKING, "ready: 90 images, nothing left out, and 1 pair on two sides of the splits"),
        (LOST, "ready, with 10 of 100 left out"),
        (LEAKING * 2 + LOST, "ready, with 10 of 100 left out, and 2 pairs on two sides of the splits"),
    ],
)
def test_the_summary_is_a_line(issues, summary):
    assert report(issues).summary(strict=False, max_bad_share=0.1) == summary


def test_a_summary_that_says_no_says_why():
    assert report(LOST).summary(strict=True, max_bad_share=0.1).startswith("not ready: data.strict=true doesn't allow")


def test_an_issue_in_a_line_has_its_first_names():
    assert str(LOST[0]) == "left out: 10 x empty file: 0.png, 1.png, 2.png, …"
