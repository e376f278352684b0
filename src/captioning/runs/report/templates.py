"""A page in one file: a template with its style and its scripts, which may ask for nothing from elsewhere."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from captioning import __version__
from captioning.runs.report.captions import clipped
from captioning.runs.report.numbers import shown


def fill(template: str, *, styles: Sequence[str], scripts: Sequence[str] = (), **values: Any) -> str:
    """The page of a template of this folder. Values are escaped, unless they are ``Markup``.

    Args:
        template: its file.
        styles: files of style, in the order in which they count.
        scripts: files that are run one after the other; the page's policy refuses any other.
        values: what the template speaks of, beside ``style``, ``script``, ``script_hash`` and ``version``.
    """
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "clipped": clipped}
    script = "\n".join(map(_text, scripts))
    return environment.get_template(template).render(
        version=__version__,
        style=Markup("\n".join(map(_text, styles))),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def _text(name: str) -> str:
    return files("captioning.runs.report").joinpath(name).read_text("utf-8")
