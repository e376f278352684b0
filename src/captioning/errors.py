"""The one kind of error that is the user's to mend."""

from difflib import get_close_matches


class UserError(ValueError):
    """A mistake of settings, data or files: its one line names the setting, the value and the way out."""


def nearest(word: str, choices: list[str]) -> str:
    """``; did you mean X?`` where one of ``choices`` is near enough to ``word``, else the choices themselves."""
    matches = get_close_matches(word, choices, n=1)
    return f"; did you mean {matches[0]}?" if matches else f"; there are: {', '.join(sorted(choices))}"
