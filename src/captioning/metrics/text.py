"""The one text normalization: every metric compares captions after it, and nothing else changes a caption."""

import string
import unicodedata


def normalize(caption: str) -> str:
    """``caption`` in Unicode NFKC and lower case, with punctuation as spaces and one space between words.

    GIT's decoder doesn't know where the spaces were. So, as its uncased WordPiece, this puts spaces at punctuation
    ("t-shirt" is "t - shirt"), ASCII's symbols and around Chinese characters, and drops what can't be seen.
    """
    spaced = unicodedata.normalize("NFKC", caption).lower().translate(_REPLACEMENTS)
    # Composed once more: lower case and dropped characters bring letters and accents together that weren't.
    return unicodedata.normalize("NFC", " ".join(spaced.split()))


class _Replacements(dict[int, str]):
    """Code point to what takes its place, each worked out when it is first met."""

    def __missing__(self, codepoint: int) -> str:
        replacement = c = chr(codepoint)
        category = unicodedata.category(c)
        if category[0] in "PZ" or c in string.punctuation or c.isspace():
            replacement = " "
        elif category[0] == "C" or "\ufe00" <= c <= "\ufe0f":  # the latter choose between ❤ and ❤️
            replacement = ""
        elif unicodedata.name(c, "").startswith("CJK UNIFIED"):
            replacement = f" {c} "
        self[codepoint] = replacement
        return replacement


_REPLACEMENTS = _Replacements()
