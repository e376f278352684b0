import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.metrics import normalize

BMP = [chr(codepoint) for codepoint in range(0x10000)]
CJK = [chr(codepoint) for codepoint in range(0x4E00, 0x9FFD)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("t-shirt", "t - shirt"),
        ("A Red CAT", "a red cat"),
        ("a cat.", "a cat"),
        ("  a\tcat\n", "a cat"),
        ("ﬁsh", "fish"),
        ("①", "1"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER C}at", "cat"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "café"),
        ("cafe\N{SOFT HYPHEN}\N{COMBINING ACUTE ACCENT}", "café"),
        ("J\N{COMBINING CARON}", "\N{LATIN SMALL LETTER J WITH CARON}"),  # there is no such capital
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", "don't"),
        ("costs $5", "costs $ 5"),
        ("一只猫", "一 只 猫"),
        ("co\N{SOFT HYPHEN}operate", "cooperate"),
        ("❤\N{VARIATION SELECTOR-16}", "❤"),
    ],
)
def test_normalized_alike(one, other):
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(
    "caption", ["a 😀 face", "кошка", "γάτα", "हिन्दी", "ไทย", "고양이", "ねこ", "قطة", "חתול", "naïve café", "7 cats"]
)
def test_normalization_leaves_words_of_any_script_alone(caption):
    assert normalize(caption) == caption


@given(st.text())
def test_normalizing_again_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


@given(st.text())
def test_normalized_words_are_one_space_apart(text):
    assert normalize(text) == " ".join(normalize(text).split())


def test_no_punctuation_and_nothing_unseen_is_left():
    left = set("".join(map(normalize, BMP))) - {" "}
    assert not left & set(string.punctuation)
    assert not [c for c in left if unicodedata.category(c)[0] in "PZC" or c.isspace()]


def test_no_upper_case_is_left():
    assert not [c for c in BMP if normalize(c) != normalize(c).lower()]


def test_punctuation_parts_words_and_the_unseen_does_not():
    assert {normalize(f"a{c}a") for c in BMP if c in string.punctuation} == {"a a"}
    assert all(" " in normalize(f"a{c}a") for c in BMP if unicodedata.category(c)[0] in "PZ")
    assert {normalize(f"a{c}a") for c in BMP if unicodedata.category(c) in ("Cf", "Co")} == {"aa"}


def test_letters_digits_and_emoji_are_kept():
    signs = [*BMP, *map(chr, range(0x1F300, 0x1FA00))]
    plain = [c for c in signs if unicodedata.normalize("NFKC", c).lower() == c and c not in string.punctuation]
    kept = [c for c in plain if unicodedata.category(c) in ("Ll", "Lo", "Lm", "Nd", "So", "Sm", "Sc")]
    assert len(kept) > 40_000
    assert [c for c in kept if normalize(c) != c] == []


def test_each_chinese_character_is_a_word():
    assert [c for c in CJK if normalize(f"{c}{c}a") != f"{c} {c} a"] == []


def test_variation_selectors_are_dropped():
    assert {normalize(f"❤{chr(selector)}") for selector in range(0xFE00, 0xFE10)} == {"❤"}
