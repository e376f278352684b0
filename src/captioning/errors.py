"""The one kind of error that is the user's to fix."""

import operator
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

import annotated_types


class UserError(ValueError):
    """A mistake of settings, data or files: its one line names the setting, the value and the way out."""


class NotFiniteError(UserError):
    """The loss or the gradients of a step aren't finite; the weights are as they were before it.

    ``batches`` are the micro-batches to blame, fit for JSON.
    """

    def __init__(self, name: str, value: float, *, step: int, batches: list[dict[str, Any]], lr: float) -> None:
        ids = [name for batch in batches for name in batch["ids"]]
        some = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        super().__init__(
            f"{name} is {value} at step {step}, at {len(ids)} images ({some}). Likely model.lr={lr:g} is too high, "
            "or trainer.precision=16-mixed overflowed (32-true doesn't). The images with their captions are in the run "
            "folder's not_finite.json"
        )
        self.record = {"step": step, name: str(value), "batches": batches}


def nearest(word: str, choices: list[str]) -> str:
    """``; did you mean X?`` where one of ``choices`` is near enough to ``word``, else the choices themselves."""
    matches = get_close_matches(word, choices, n=1)
    return f"; did you mean {matches[0]}?" if matches else f"; there are: {', '.join(sorted(choices))}"


def reason(error: BaseException, *, name_file: bool = False) -> str:
    """What an error of another library says, as part of a line; ``name_file`` adds the file of an ``OSError``."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else (*error.args, "")[0]
    if name_file and isinstance(error, OSError) and error.filename:
        said = f"{said}: {error.filename}"
    return shown(" ".join(str(said).split()))[:200] if said else type(error).__name__


def shown(name: str) -> str:
    """A name in one line that can be printed and stored, whatever is in it."""
    if name.isprintable():
        return name or "(no name)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def check_arguments(function: Callable[..., object], arguments: Mapping[str, Any], *, section: str) -> None:
    """Check arguments by a function's annotations: limits in ``Annotated[float, Gt(0)]``, choices in ``Literal``.

    ``section`` is of the configuration, for the message; None is never checked.
    """
    for name, hint in get_type_hints(function, include_extras=True).items():
        value = arguments.get(name)
        if value is None:
            continue
        setting = f"{section}.{name}"
        choices, limits = constraints(hint)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if choices and item not in choices:
                raise UserError(f"{setting}={item}: no such choice{nearest(str(item), list(choices))}")
        for word, fits, limit in limits:
            if not fits(value, limit):
                raise UserError(f"{setting} must be {word} {limit:g}, got {value}")


def constraints(hint: object) -> tuple[tuple[str, ...], list[tuple[str, Callable[[Any, Any], bool], float]]]:
    """The choices and the limits in an annotation: a limit in words, how a value is compared with it, and its value."""
    if get_origin(hint) is Literal:
        return get_args(hint), []
    for kind, (word, fits) in _COMPARISONS.items():
        if isinstance(hint, kind):
            return (), [(word, fits, getattr(hint, kind.__name__.lower()))]
    parts = [constraints(part) for part in get_args(hint)]
    return sum((choices for choices, _ in parts), ()), [limit for _, limits in parts for limit in limits]


_COMPARISONS: dict[type, tuple[str, Callable[[Any, Any], bool]]] = {
    annotated_types.Gt: ("above", operator.gt),
    annotated_types.Ge: ("at least", operator.ge),
    annotated_types.Lt: ("below", operator.lt),
    annotated_types.Le: ("at most", operator.le),
}
