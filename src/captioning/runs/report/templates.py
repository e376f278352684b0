"""A page in one file: a template with its style and its scripts, which may ask for nothing from elsewhere."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from captioning import __version__
from captioning.runs.report.numbers import shown

MAX_LETTERS = 300  # of a caption


def render_template(
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str] = (),
    package: str = "captioning.runs.report",
    **values: Any,
) -> str:
    """A page from a template. Values are escaped, unless they are ``Markup``.

    Args:
        template: its file.
        styles: files of style, in the order in which they count.
        scripts: files that are run one after the other; the page's policy refuses any other.
        package: whose files these are; what isn't there is taken from this one.
        values: what the template speaks of, beside ``style``, ``script``, ``script_hash`` and ``version``.
    """

    def text(name: str) -> str:
        own = files(package).joinpath(name)
        return (own if own.is_file() else files("captioning.runs.report").joinpath(name)).read_text("utf-8")

    environment = Environment(
        loader=FunctionLoader(text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "clipped": clipped}
    script = "\n".join(map(text, scripts))
    return environment.get_template(template).render(
        version=__version__,
        style=Markup("\n".join(map(text, styles))),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def clipped(caption: str) -> str:
    """A caption of a length that fits a page, with its number of words if some are left out."""
    if len(caption) <= MAX_LETTERS:
        return caption
    count = len(caption.split())
    return f"{caption[:MAX_LETTERS].rstrip()} … ({count:,} word{'s' * (count != 1)})"
