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

    Args:
        repo_id: ``USER/NAME`` as the Hub writes it.
        setting: the configuration key that named the repository, for the error message.
        repo_type: which kind of repository.
        revision: a branch, tag or commit; ``main`` when not given.
        allow_patterns: glob patterns of the files to fetch; all of them when not given.
        way_out: what a user without this repository can do instead, for the error message.

    Raises:
        UserError: the repository or its revision doesn't exist, isn't public, or is neither cached nor reachable.
    """
    at = f" (revision {revision})" if revision else ""
    failure = _failure_to_reach(repo_id, repo_type, revision)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=list(allow_patterns) if allow_patterns else None,
                local_files_only=failure is not None,
            )
        )
    except Exception as error:  # the errors of the client's HTTP library are among them, and it changes libraries
        raise UserError(
            f"{setting}={repo_id}{at}: {_problem(failure or error, repo_type)}{way_out and f'. {way_out}'}"
        ) from error


def _failure_to_reach(repo_id: str, repo_type: str, revision: str | None) -> Exception | None:
    try:
        huggingface_hub.HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=CONNECT_TIMEOUT_S)
    except Exception as error:  # as above; and what a hotel's login page answers isn't even JSON
        return error
    return None


def _problem(error: Exception, repo_type: str) -> str:
    match error:
        case HFValidationError():
            return f"is neither a folder on this machine nor a {repo_type} name of the form USER/NAME"
        case GatedRepoError():
            return "is gated: accept its terms on huggingface.co and log in with `hf auth login`"
        case RepositoryNotFoundError():
            return f"is no {repo_type} on the Hugging Face Hub (or a private one: log in with `hf auth login`)"
        case RevisionNotFoundError():
            return "has no such branch, tag or commit on the Hugging Face Hub"
    return (
        f"is not in the local cache ({huggingface_hub.constants.HF_HUB_CACHE}) and the Hugging Face Hub "
        f"can't be reached ({_first_line(error)})"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
