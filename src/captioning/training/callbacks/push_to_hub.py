"""The model to the Hub, when the run has ended."""

import logging
from pathlib import Path

import lightning as L

from captioning.errors import UserError
from captioning.export.push import push, require_ready
from captioning.training.distributed.environment import is_rank_zero

_log = logging.getLogger(__name__)


class PushToHub(L.Callback):
    """Uploads the model of a run that has ended, as ``captioning push`` does.

    Args:
        push: whether to.
        name: ``USER/NAME`` on the Hub.
        public: whether everybody may see a repository that is new.

    Raises:
        UserError: there is no name, nobody is logged in, the repository holds something else, or the Hub can't be
            reached: it is asked before hours of training.
    """

    def __init__(self, *, push: bool = False, name: str | None = None, public: bool = False) -> None:
        if push and name is None:
            raise UserError("hub.push=true: where to? hub.name=USER/NAME says it")
        self.name, self.public = str(name), public
        if push and is_rank_zero():
            require_ready(self.name, public=public)

    def upload(self, run: Path) -> None:
        """Upload the model of a finished run. The run has succeeded, whatever becomes of this."""
        _log.info(f"uploading the model to {self.name}")
        try:
            upload = push(str(run), self.name, public=self.public)
        except UserError as error:
            again = f"captioning push {run} {self.name}{' --public' * self.public}"
            _log.warning(f"the model isn't on the Hub: {error}; to try again: {again}")
        else:
            _log.info(f"the model is on the Hub, {upload.where}")
