"""A trained model to the Hugging Face Hub: private by default, the best model alone, with its card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, and not listed

from captioning.errors import UserError
from captioning.export.card import TAG
from captioning.export.huggingface import export
from captioning.inference.pretrained import find_model

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class Upload(NamedTuple):
    """What goes, or went, to the Hub: the address of the repository, and sizes in bytes by file name."""

    where: str
    files: dict[str, int]


def push(
    run: str, name: str, *, public: bool = False, dry_run: bool = False, replace: bool = False, **options: Any
) -> Upload:
    """Upload a model to ``USER/NAME`` in one commit, so that the repository has all of it or none.

    What an interrupted upload has sent already isn't sent again. The login is that of the Hub's own tools.

    ``public`` is for a repository that is new. ``dry_run`` only lists what would go, and asks the Hub nothing.
    ``replace`` overwrites what is no model of this project. The options, and ``run``, are those of
    :func:`captioning.export.huggingface.export`. Raises UserError.
    """
    _require_name(name)
    find_model(run)
    api = HfApi()
    exists = dry_run or require_ready(name, public=public, replace=replace)
    with tempfile.TemporaryDirectory(prefix="captioning-push-") as scratch:
        folder = Path(scratch) / "model"
        export(run, folder, name=name, **options)
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        if not dry_run:
            with _friendly_hub_errors(name):
                if not exists:
                    api.create_repo(name, private=not public)
                api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model and card by captioning")
    return Upload(f"{api.endpoint}/{name}", dict(sorted(sizes.items())))


def require_ready(name: str, *, public: bool, replace: bool = False) -> bool:
    """Whether there is such a repository already; arguments and errors are those of :func:`push`."""
    if not name:
        raise UserError("hub.push=true needs the model's name on the Hub: hub.name=USER/NAME")
    _require_name(name)
    api = HfApi()
    with _friendly_hub_errors(name):
        api.whoami()
        if not api.repo_exists(name):
            return False
        info = api.model_info(name)
        if info.private is public:
            is_now, way_out = ("private", "leave out --public") if public else ("public", "say --public")
            raise UserError(f"{name}: is {is_now} on the Hub; {way_out}, or change it in its settings there")
        files = {file.rfilename for file in info.siblings or []} - {".gitattributes"}  # which the Hub adds itself
        tags = (ModelCard.load(name).data.tags or []) if "README.md" in files else []
        if files and not replace and TAG not in tags:
            raise UserError(f"{name}: holds something else; take another name, or --replace its files")
    return True


def _require_name(name: str) -> None:
    is_whole = False
    with suppress(HFValidationError):
        validate_repo_id(name)
        is_whole = name.count("/") == 1
    if not is_whole:
        raise UserError(f"{name}: no name of the form USER/NAME, of letters, digits, - _ and .")


@contextmanager
def _friendly_hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # also of the client's HTTP library, which changes between releases
        if isinstance(error, UserError):
            raise
        if isinstance(error, LocalTokenNotFoundError):
            raise UserError(f"{name}: nobody is logged in to the Hub; {LOG_IN}") from error
        answer = error if isinstance(error, HfHubHTTPError) else None
        said = ((answer and answer.server_message) or str(error).strip() or type(error).__name__).splitlines()[0]
        status = answer and answer.response.status_code
        problem = f"the Hub refuses ({status}: {said})" if answer else f"the Hub can't be reached ({said})"
        line = {
            401: f"the Hub doesn't know this login; {LOG_IN}",
            403: "this login may not write there; make a token that may, at https://huggingface.co/settings/tokens",
        }.get(status or 0, f"{problem}; the same command resumes, and sends nothing twice")
        raise UserError(f"{name}: {line}") from error
