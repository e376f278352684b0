"""A trained model to the Hugging Face Hub: private by default, the best model alone, with its card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError
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
    """Upload a model in one commit, so that the repository has all of it or none.

    What an interrupted upload has sent already isn't sent again. The login is that of the Hub's own tools.

    Args:
        run: a run folder, a ``.ckpt`` of one, or a Hugging Face folder.
        name: ``USER/NAME`` on the Hub.
        public: whether everybody may see a repository that is new.
        dry_run: only list what would go; no request is made.
        replace: whether a repository with something else in it may be written to.
        **options: as for :func:`captioning.export.huggingface.export`.

    Raises:
        UserError: there is no such model; nobody is logged in, or without the right; the repository holds something
            else, or isn't as public or private as asked for; the Hub can't be reached.
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
            with _errors_in_one_line(name):
                if not exists:
                    api.create_repo(name, private=not public)
                api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model and card by captioning")
    return Upload(f"{api.endpoint}/{name}", dict(sorted(sizes.items())))


def require_ready(name: str, *, public: bool, replace: bool = False) -> bool:
    """Ask the Hub whether a model may go there; arguments and errors are those of :func:`push`.

    Returns:
        Whether there is such a repository already.
    """
    _require_name(name)
    api = HfApi()
    with _errors_in_one_line(name):
        api.whoami()
        try:
            info = api.model_info(name)
        except RepositoryNotFoundError:
            return False
        if info.private is public:
            is_now, way_out = ("private", "leave out --public") if public else ("public", "say --public")
            raise UserError(f"{name}: is {is_now} on the Hub; {way_out}, or change it in its settings there")
        files = {file.rfilename for file in info.siblings or []} - {".gitattributes"}  # which the Hub adds itself
        tags = (ModelCard.load(name).data.tags or []) if "README.md" in files else []
        if files and not replace and TAG not in tags:
            raise UserError(f"{name}: holds something else; take another name, or --replace its files")
    return True


def _require_name(name: str) -> None:
    try:
        validate_repo_id(name)
        is_whole = name.count("/") == 1
    except HFValidationError:
        is_whole = False
    if not is_whole:
        raise UserError(f"{name}: no name of the form USER/NAME, of letters, digits, - _ and .")


@contextmanager
def _errors_in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except LocalTokenNotFoundError as error:
        raise UserError(f"{name}: nobody is logged in to the Hub; {LOG_IN}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        message = (error.server_message or str(error)).strip().splitlines()[0]
        known = {
            401: f"the Hub doesn't know this login; {LOG_IN}",
            403: "this login may not write there; make a token that may, at https://huggingface.co/settings/tokens",
        }
        refused = f"the Hub refuses ({status}: {message}); the same command tries again, and sends nothing twice"
        raise UserError(f"{name}: {known.get(status, refused)}") from error
    except Exception as error:  # of the client's HTTP library, which changes between releases
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name}: the Hub can't be reached ({message}); the same command resumes, and sends nothing twice"
        ) from error
