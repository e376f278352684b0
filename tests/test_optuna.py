"""Searching with Optuna: the command line's grammar, and a study that is resumed."""

import signal

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from test_sweep import RESUMABLE, WITNESS, Sweep

from captioning.errors import UserError
from captioning.sweeps.optuna import make_sampler, split_overrides, tell

OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=interval(1,5)", FloatDistribution(1.0, 5.0)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=tag(log,interval(1e-6,1e-3))", FloatDistribution(1e-6, 1e-3, log=True)),
        ("a=tag(log, int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(1,10,2)", IntDistribution(1, 9, step=2)),  # 10 isn't part of it
        ("a=range(3)", IntDistribution(0, 2)),
        ("a=range(0.0,0.5,0.25)", FloatDistribution(0.0, 0.25, step=0.25)),
        ("a=choice(8,16)", CategoricalDistribution([8, 16])),
        ("a=8,16", CategoricalDistribution([8, 16])),
        ("a=0.5,1e-3", CategoricalDistribution([0.5, 0.001])),
        ("a=choice(cosine,linear)", CategoricalDistribution(["cosine", "linear"])),
        ("a=choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"])),
        ("a=true,false", CategoricalDistribution(["True", "False"])),
        ("a=choice('x y',z)", CategoricalDistribution([r"x\ y", "z"])),
        ("a=shuffle(range(1,3))", None),
    ],
)
def test_an_override_that_varies_is_what_hydra_means_by_it(override, expected):
    space, fixed = split_overrides([override])
    assert fixed == []
    if expected is None:
        assert set(space["a"].choices) == {1, 2}
    else:
        assert space == {"a": expected}


def test_what_does_not_vary_is_handed_on_as_it_was_given():
    given = ["a=1", "+b='x y'", "~c", "d=[1,2]", "e=null", "f=2e-05"]
    assert split_overrides(given) == ({}, given)


def test_of_a_setting_that_is_given_twice_the_last_counts():
    space, fixed = split_overrides(["a=1,2", "b=1", "a=3", "b=choice(1,2)"])
    assert fixed == ["a=3"]
    assert list(space) == ["b"]


@pytest.mark.parametrize("override", ["a=tag(log,interval(0,1))", "a=interval(2,1)", "a=range(3,1)"])
def test_a_range_that_nothing_can_be_drawn_from_is_refused_by_name(override):
    with pytest.raises(UserError) as caught:
        split_overrides([override])
    assert str(caught.value).startswith(f"{override}: ")


@pytest.mark.parametrize("name", ["TPESampler", "RandomSampler"])
def test_a_search_that_was_stopped_draws_what_it_would_have_drawn(name):
    space, _ = split_overrides(["a=interval(0,1)", "b=choice(1,2,3)"])
    node = {"_target_": f"optuna.samplers.{name}"}

    def values(*starts: int) -> list[dict]:
        study = optuna.create_study()
        for trials in starts:
            for _ in range(trials):
                study.sampler = make_sampler(node, space, 42, number=len(study.trials))
                trial = study.ask(space)
                study.tell(trial, trial.params["a"])
        return [trial.params for trial in study.trials]

    whole = values(14)
    assert whole == values(5, 9)
    assert len({drawn["a"] for drawn in whole}) == 14


def test_another_seed_searches_elsewhere():
    space, _ = split_overrides(["a=interval(0,1)"])
    drawn = []
    for seed in (1, 2):
        study = optuna.create_study(sampler=make_sampler(None, space, seed, number=0))
        drawn.append(study.ask(space).params)
    assert drawn[0] != drawn[1]


def test_a_grid_visits_every_combination_once():
    space, _ = split_overrides(["a=range(1,4)", "b=choice(x,y)"])
    node = {"_target_": "optuna.samplers.GridSampler"}
    study = optuna.create_study()
    for number in range(6):
        study.sampler = make_sampler(node, space, 42, number=number)
        tell(study, study.ask(space), 0.0)
    assert sorted((t.params["a"], t.params["b"]) for t in study.trials) == [(a, b) for a in (1, 2, 3) for b in "xy"]


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), "fast"])
def test_a_trial_without_a_finite_number_failed(score):
    study = optuna.create_study()
    tell(study, study.ask({"a": FloatDistribution(0, 1)}), score)
    assert study.trials[0].state == TrialState.FAIL


def test_a_sampler_with_a_setting_that_optuna_does_not_know_is_refused_by_name():
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.sampler: .*n_startup"):
        make_sampler({"_target_": "optuna.samplers.TPESampler", "n_startup": 3}, {}, 42, number=0)


def trials_of(sweep: Sweep) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(sweep.path / "study.journal")))
    return optuna.load_study(study_name="captioning", storage=storage).trials


@pytest.fixture(scope="module")
def searched(images, tmp_path_factory) -> tuple[Sweep, int]:
    """Two trials of two processes each, one of which can't succeed, and then the same command with one more."""
    swept = [*OPTUNA, "hydra/sweeper/sampler=grid", "trainer.devices=2", *WITNESS]
    values = ["model.lr=choice(-1.0,0.001)", "monitor=val/loss"]
    sweep = Sweep(tmp_path_factory.mktemp("optuna"), f"data.path={images}", *swept, *values)
    return sweep, sweep.run()


def test_each_trial_is_a_job_with_its_values_in_its_config_and_in_all_its_processes(searched):
    sweep, _ = searched
    (good,) = (trial for trial in trials_of(sweep) if trial.params["model.lr"] > 0)
    assert sweep.config(good.number)["model"]["lr"] == 0.001
    seen = sweep.seen(good.number)
    assert [(one["lr"], one["processes"]) for one in seen] == [(0.001, 2), (0.001, 2)]
    assert seen[0]["weights"] == seen[1]["weights"]


def test_optuna_is_told_the_monitored_number_and_which_trial_failed(searched):
    sweep, status = searched
    bad, good = sorted(trials_of(sweep), key=lambda trial: trial.params["model.lr"])
    assert (good.state, good.value) == (TrialState.COMPLETE, sweep.metrics(good.number)["val/loss"])
    assert bad.state == TrialState.FAIL
    assert status == 1


def test_the_best_trial_is_left_in_a_file(searched):
    sweep, _ = searched
    best = yaml.safe_load((sweep.path / "optimization_results.yaml").read_text())
    assert best["best_params"] == {"model.lr": 0.001}
    assert best["best_value"] == sweep.metrics(best["best_trial"])["val/loss"]


@pytest.mark.slow
def test_a_search_stopped_in_a_trial_resumes_it_and_counts_all_trials(images, tmp_path):
    values = ["model.lr=tag(log,interval(1e-4,1e-2))", "trainer.max_epochs=40", *WITNESS]
    sweep = Sweep(tmp_path, f"data.path={images}", *OPTUNA, *values)
    process = sweep.start()
    sweep.wait_for_training(0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == RESUMABLE
    (begun,) = trials_of(sweep)
    assert begun.state == TrialState.RUNNING

    assert sweep.run() == 0
    trials = trials_of(sweep)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert trials[0].params == begun.params
    assert "resuming after step" in sweep.said
    assert [sweep.seen(trial.number)[0]["lr"] for trial in trials] == [trial.params["model.lr"] for trial in trials]

    assert sweep.run("model.lr=tag(log,interval(1e-4,1e-2))", "data.batch_size=choice(4,8)") == 1
    assert "the study that is there varied model.lr, and now it is data.batch_size, model.lr" in sweep.said


@pytest.mark.slow
def test_a_study_of_failed_trials_alone_is_no_success_when_it_is_started_again(images, tmp_path):
    values = ["model.lr=choice(-1.0,-2.0)", "hydra.sweeper.n_trials=1"]
    sweep = Sweep(tmp_path, f"data.path={images}", "hydra/sweeper=optuna", *values)
    assert sweep.run() == 1
    assert sweep.run() == 1
    assert "no trial of its study has a score" in sweep.said
