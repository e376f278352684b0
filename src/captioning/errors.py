"""The one kind of error that is the user's to mend."""

from difflib import get_close_matches


class UserError(ValueError):
    """A mistake of settings, data or files: its one line names the setting, the value and the way out."""


def nearest(word: str, choices: list[str]) -> str:
    """``; did you mean X?`` where one of ``choices`` is near enough to ``word``, else the choices themselves."""
    matches = get_close_matches(word, choices, n=1)
    return f"; did you mean {matches[0]}?" if matches else f"; there are: {', '.join(sorted(choices))}"


def reason(error: BaseException, *, name_file: bool = False) -> str:
    """What an error of another library says, as part of a line.

    Args:
        error: the error.
        name_file: whether to add the file that the system couldn't use, where nothing else in the line says it.
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else (*error.args, "")[0]
    if name_file and isinstance(error, OSError) and error.filename:
        said = f"{said}: {error.filename}"
    return shown(" ".join(str(said).split()))[:200] if said else type(error).__name__


def shown(name: str) -> str:
    """A name in one line that can be printed and stored, whatever is in it."""
    if name.isprintable():
        return name or "(no name)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
