"""Which settings of a search matter, as Optuna estimates it from the study."""

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

JOURNAL, STUDY_NAME = "study.journal", "captioning"
MIN_TRIALS = 10  # below, chance decides


def storage_of(folder: Path, url: str | None) -> str | BaseStorage:
    """Optuna's storage: at a URL, or a journal in the sweep's folder."""
    path = str(folder / JOURNAL)
    return url or JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def importance_of_settings(folder: Path, storage: str | None, study_name: str | None) -> dict[str, float]:
    """The importance of each setting, from 0 to 1, highest first; raises what Optuna does if there is no study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=study_name or STUDY_NAME, storage=storage_of(folder, storage))
    completed = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))
    if completed < MIN_TRIALS:
        raise ValueError(f"{completed} trials have a score, and {MIN_TRIALS} are needed")
    return optuna.importance.get_param_importances(study)
