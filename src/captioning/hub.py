"""Hugging Face Hub repositories as folders on this disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from captioning.errors import UserError

CONNECT_TIMEOUT_S = 10


def snapshot(
    repo_id: str,
    *,
    setting: str,
    repo_type: Literal["model", "dataset"] = "model",
    revision: str | None = None,
    allow_patterns: Sequence[str] | None = None,
    way_out: str = "",
) -> Path:
    """The folder with the files of a Hub repository, downloaded when they aren't in the local cache yet.

    One request decides whether the Hub can be reached: the client itself waits without end for a Hub that doesn't
    answer, and the loaders of transformers and datasets would retry for minutes, file by file.

    ``setting`` is the configuration key that named the repository, and ``way_out`` what a user without it can do, for
    the error message. ``revision`` is a branch, tag or commit, by default ``main``; ``allow_patterns`` are globs of the
    files to fetch, by default all.

    Raises:
        UserError: the repository or its revision doesn't exist, isn't public, or is neither cached nor reachable.
    """
    failure, api = None, huggingface_hub.HfApi()
    try:
        api.repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=CONNECT_TIMEOUT_S)
    except Exception as error:  # also of its HTTP library, which changes; a hotel's login page isn't even JSON
        failure = error
    patterns = list(allow_patterns) if allow_patterns else None
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=patterns,
                local_files_only=failure is not None,
            )
        )
    except Exception as error:
        match cause := failure or error:
            case HFValidationError():
                line = f"is neither a folder on this machine nor a {repo_type} name of the form USER/NAME"
            case GatedRepoError():
                line = "is gated: accept its terms on huggingface.co and log in with `hf auth login`"
            case RepositoryNotFoundError():
                line = f"is no {repo_type} on the Hugging Face Hub (or a private one: log in with `hf auth login`)"
            case RevisionNotFoundError():
                line = "has no such branch, tag or commit on the Hugging Face Hub"
            case _:
                why = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
                cache = huggingface_hub.constants.HF_HUB_CACHE
                line = f"is not in the local cache ({cache}) and the Hugging Face Hub can't be reached ({why})"
        at = f" (revision {revision})" if revision else ""
        raise UserError(f"{setting}={repo_id}{at}: {line}{way_out and f'. {way_out}'}") from error
