"""A trained model to the Hugging Face Hub: private unless told otherwise, the best model alone, with its card."""

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

OF_THE_HUB = {".gitattributes"}  # which it puts into every new repository
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class Upload(NamedTuple):
    """What goes, or went, to the Hub.

    Args:
        where: the address of the repository.
        files: their sizes in bytes, by name.
    """

    where: str
    files: dict[str, int]


def push(
    run: str, name: str, *, public: bool = False, dry_run: bool = False, replace: bool = False, **options: Any
) -> Upload:
    """Upload a model in one commit, so that the repository has all of it or none.

    What an interrupted upload has sent already isn't sent again. Who is logged in is the affair of the Hub's own tools:
    no token is asked for, kept or told here.

    Args:
        run: a run folder, a ``.ckpt`` of one, or a Hugging Face folder.
        name: ``USER/NAME`` on the Hub.
        public: whether everybody may see a repository that is new.
        dry_run: only tell what would go; the Hub isn't asked anything.
        replace: whether a repository with something else in it may be written to.
        **options: as for :func:`captioning.export.huggingface.export`.

    Raises:
        UserError: there is no such model; nobody is logged in, or without the right; the repository holds something
            else, or is open to others than was said; the Hub can't be reached.
    """
    _require_name(name)
    find_model(run)
    api = HfApi()
    exists = dry_run or require_ready(name, public=public, replace=replace)
    with tempfile.TemporaryDirectory(prefix="captioning-push-") as scratch:
        folder = Path(scratch) / "model"
        export(run, folder, name=name, **options)
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        upload = Upload(f"{api.endpoint}/{name}", dict(sorted(sizes.items())))
        if not dry_run:
            with _told_in_one_line(name):
                if not exists:
                    api.create_repo(name, private=not public)
                api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model and card by captioning")
    return upload


def require_ready(name: str, *, public: bool, replace: bool = False) -> bool:
    """Ask the Hub whether a model may go there; the arguments are those of :func:`push`.

    Returns:
        Whether there is such a repository already.

    Raises:
        UserError: as for :func:`push`.
    """
    _require_name(name)
    api = HfApi()
    with _told_in_one_line(name):
        api.whoami()
        return _require_fit(api, name, public=public, replace=replace)


def _require_name(name: str) -> None:
    try:
        validate_repo_id(name)
        is_whole = name.count("/") == 1
    except HFValidationError:
        is_whole = False
    if not is_whole:
        raise UserError(f"{name}: no name of the form USER/NAME, of letters, digits, - _ and .")


def _require_fit(api: HfApi, name: str, *, public: bool, replace: bool) -> bool:
    """Whether the repository exists; one that does must be as open as was said, and empty or by this project."""
    try:
        info = api.model_info(name)
    except RepositoryNotFoundError:
        return False
    if info.private is public:
        is_now, way_out = ("private", "leave out --public") if public else ("public", "say --public")
        raise UserError(f"{name}: is {is_now} on the Hub; {way_out}, or change it in its settings there")
    files = {file.rfilename for file in info.siblings or []} - OF_THE_HUB
    if files and not replace and TAG not in _tags(name, files):
        raise UserError(f"{name}: holds something else; take another name, or --replace its files")
    return True


def _tags(name: str, files: set[str]) -> list[str]:
    return (ModelCard.load(name).data.tags or []) if "README.md" in files else []


@contextmanager
def _told_in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except LocalTokenNotFoundError as error:
        raise UserError(f"{name}: nobody is logged in to the Hub; {LOG_IN}") from error
    except HfHubHTTPError as error:
        raise UserError(f"{name}: {_refusal(error)}") from error
    except Exception as error:  # of the client's HTTP library, which it changes at times
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name}: the Hub can't be reached ({why}); the same command goes on, and sends nothing twice"
        ) from error


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub doesn't know this login; {LOG_IN}"
    if status == 403:
        return "this login may not write there; make a token that may, at https://huggingface.co/settings/tokens"
    said = (error.server_message or str(error)).strip().splitlines()[0]
    return f"the Hub refuses ({status}: {said}); the same command tries again, and sends nothing twice"
