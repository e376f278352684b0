"""Checks of captions: too long, in the wrong encoding, or no captions at all."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

MAX_CHARACTERS = 1000  # characters
FREQUENT_SHARE, FREQUENT_IMAGES, FREQUENT_SHOWN = 0.05, 10, 20
UNKNOWN_SHARE = 0.01
CHUNK = 2000  # images whose captions are with the tokenizer at a time

# UTF-8 that was read as Windows-1252: the letter of a lead byte, then what can only be a continuation byte.
_CONTINUATION = re.escape(bytes(range(0x80, 0xC0)).decode("cp1252", "ignore")) + r"\x80-\x9f"
_WRONG_ENCODING = re.compile(
    rf"\ufffd|[\x80-\x9f]|Ã[{_CONTINUATION}]|Â[\xa0-\xbf]|â€[{_CONTINUATION}]|ðŸ|ï»¿|(?:[ÐÑ][{_CONTINUATION}]){{2}}"
)
_FILE_NAME = re.compile(
    r"\S*\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic)|(?:img|dscn?|pxl|dji|screenshot)[_-]?\d\S*", re.IGNORECASE
)
_ADDRESS = re.compile(r"\bhttps?://|\bwww\.\w", re.IGNORECASE)
_HTML = re.compile(r"</?[a-z][^<>]*>|&(?:[a-z]{2,8}|#\d+|#x[\da-f]+);", re.IGNORECASE)
# Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese put no spaces between words.
_NO_SPACES = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")

# What is odd about a caption by itself.
_ODD: dict[str, Callable[[str], object]] = {
    f"caption of over {MAX_CHARACTERS:,} characters": lambda caption: len(caption) > MAX_CHARACTERS,
    "caption in the wrong encoding, such as \N{LATIN CAPITAL LETTER A WITH TILDE}© for é": (
        lambda caption: not caption.isascii() and _WRONG_ENCODING.search(caption)
    ),
    "caption that looks like a file name": _FILE_NAME.fullmatch,
    "caption with a web address": _ADDRESS.search,
    "caption with HTML": _HTML.search,
}

Issues = tuple[str, list[str]]  # a kind, and the ids of the images (or, where it says so, the words) that have it


def check_captions(ids: Sequence[str], captions: Sequence[Sequence[str]]) -> Iterator[Issues]:
    """Issues that don't depend on the model."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, of_image in zip(ids, captions, strict=True):
        if len(set(of_image)) < len(of_image):
            kinds["the same caption more than once for an image"].append(name)
        for kind, is_odd in _ODD.items():
            if any(map(is_odd, of_image)):
                kinds[kind].append(name)
    yield from kinds.items()
    images = Counter(caption for of_image in captions for caption in dict.fromkeys(of_image))
    least = max(FREQUENT_IMAGES, FREQUENT_SHARE * len(ids))
    if frequent := [pair for pair in images.most_common(FREQUENT_SHOWN) if pair[1] >= least]:
        names = [f'"{caption}" ({count:,} of {len(ids):,} images)' for caption, count in frequent]
        yield f"one caption for {100 * FREQUENT_SHARE:.0f} % or more of the images", names
    short = [sum(" " not in one and not _NO_SPACES.search(one) for one in of_image) for of_image in captions]
    if 2 * sum(short) > sum(map(len, captions)):
        names = [name for name, count in zip(ids, short, strict=True) if count]
        yield "caption of a single word, as more than half of all captions are", names


def check_tokens(
    ids: Sequence[str],
    captions: Sequence[Sequence[str]],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_caption_tokens: int,
) -> Iterator[Issues]:
    """Captions that are cut, and words that the tokenizer doesn't know, where they are many."""
    long: dict[str, None] = {}
    tokens, unknown = 0, Counter[str]()
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    for start in range(0, len(ids), CHUNK):
        chunk = captions[start : start + CHUNK]
        names = [name for name, of_image in zip(ids[start:], chunk, strict=False) for _ in of_image]
        texts = [caption for of_image in chunk for caption in of_image]
        lacking = []
        for name, text, own in zip(names, texts, tokenizer(texts, **options).input_ids, strict=True):
            tokens += len(own) - tokenizer.num_special_tokens_to_add()
            if len(own) > max_caption_tokens:
                long[name] = None
            if tokenizer.unk_token_id in own:
                lacking.append(text)
        if lacking:
            encoded = tokenizer(lacking, return_offsets_mapping=True, **options)
            for text, own, offsets in zip(lacking, encoded.input_ids, encoded.offset_mapping, strict=True):
                words = [text[slice(*offset)] for offset in offsets]
                unknown.update(word for word, token in zip(words, own, strict=True) if token == tokenizer.unk_token_id)
    if long:
        yield f"caption longer than data.max_caption_tokens={max_caption_tokens}, which is cut there", list(long)
    if unknown.total() > UNKNOWN_SHARE * tokens:
        kind = f"word that the tokenizer doesn't know; together they are over {100 * UNKNOWN_SHARE:.0f} % of all tokens"
        yield kind, [word for word, _ in unknown.most_common()]
