"""The one text normalization: every metric compares captions after it, and nothing else changes a caption."""

import string
import unicodedata


def normalize(caption: str) -> str:
    """``caption`` in Unicode NFKC and lower case, with punctuation as spaces and one space between words.

    Punctuation becomes a space, not nothing, because GIT's uncased WordPiece splits there and its decoder
    doesn't know where the spaces were: "t-shirt" and "t - shirt" are the same words. It also splits at ASCII's
    symbols and around each Chinese character, and drops what can't be seen, such as joiners and soft hyphens; so
    does this, or a caption learned by heart would count as wrong.
    """
    spaced = unicodedata.normalize("NFKC", caption).lower().translate(_REPLACEMENTS)
    # Composed once more: lower case and dropped characters bring letters and accents together that weren't.
    return unicodedata.normalize("NFC", " ".join(spaced.split()))


class _Replacements(dict[int, str]):
    """Code point to what takes its place, each worked out when it is first met."""

    def __missing__(self, codepoint: int) -> str:
        self[codepoint] = replacement = _spaced(chr(codepoint))
        return replacement


def _spaced(c: str) -> str:
    category = unicodedata.category(c)
    if category[0] in "PZ" or c in string.punctuation or c.isspace():
        return " "
    if category[0] == "C" or "\ufe00" <= c <= "\ufe0f":  # the latter choose between ❤ and ❤️
        return ""
    return f" {c} " if unicodedata.name(c, "").startswith("CJK UNIFIED") else c


_REPLACEMENTS = _Replacements()
