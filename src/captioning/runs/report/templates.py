"""A page in one file: a template with its style and its scripts, which may ask for nothing from elsewhere."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files

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
    **values: object,
) -> str:
    """A page from a template, with styles and scripts in their order. Values are escaped, unless they are ``Markup``.

    Files are those of ``package``, or else of this one. The page's policy refuses scripts from elsewhere.
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
