"""Many processes: one folder, one training, one end. Real processes over gloo, started as users start them."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL
from runs import free_port, run, said
from started import TORCHRUN, TRAIN, descendants, is_alive, srun, started, trainers, wait_for

from captioning.errors import UserError
from captioning.training.distributed.environment import default_run_dir, is_restart

# Until it is stopped, and with something written down early.
LONG = ("trainer.max_epochs=100000", "callbacks.gallery=null", "callbacks.collapse_alarm=null", "val_every_n_steps=2")


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def weights_of(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.fixture
def settings(images) -> list[str]:
    return [*SMALL, f"data.path={images}"]


@pytest.fixture
def no_launcher(monkeypatch) -> pytest.MonkeyPatch:
    """An environment in which nobody started this process to train."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    return monkeypatch


# ---------------------------------------------------------------- one folder

BATCH = {"SLURM_JOB_ID": "77", "ENVIRONMENT": "BATCH"}
STEP = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        (BATCH, "outputs/slurm/77"),
        (STEP, "outputs/slurm/77"),
        ({**STEP, "SLURM_STEP_ID": "3"}, "outputs/slurm/77-3"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, "outputs/slurm/77"),
        ({**BATCH, "SLURM_RESTART_COUNT": "1"}, "outputs/slurm/77"),
        ({**STEP, "SLURM_JOB_NAME": "interactive"}, "outputs/slurm/77"),  # srun in the shell of salloc
    ],
)
def test_a_slurm_job_goes_into_the_folder_of_its_number(no_launcher, variables, folder):
    for name, value in variables.items():
        no_launcher.setenv(name, value)
    assert default_run_dir() == folder


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "77"},  # salloc's shell
        {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": str(0xFFFFFFFA)},  # the same as a step of its own
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "1"},  # srun --pty bash
    ],
)
def test_a_run_typed_in_a_shell_goes_into_the_folder_of_its_time(no_launcher, variables):
    for name, value in variables.items():
        no_launcher.setenv(name, value)
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", default_run_dir())


@pytest.mark.parametrize(
    "variables", [{"LOCAL_RANK": "0"}, {"NODE_RANK": "1"}, {"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "2"}]
)
def test_processes_started_one_by_one_are_asked_for_a_folder(no_launcher, variables):
    for name, value in variables.items():
        no_launcher.setenv(name, value)
    with pytest.raises(UserError, match=r"hydra\.run\.dir=DIR"):
        default_run_dir()


def test_torchruns_workers_without_its_store_are_asked_for_a_folder(no_launcher):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        no_launcher.setenv(name, value)
    with pytest.raises(UserError, match=r"hydra\.run\.dir=DIR"):
        default_run_dir()


@pytest.mark.parametrize(("count", "again"), [("0", False), ("1", True), ("", False)])
@pytest.mark.parametrize("launcher", ["SLURM", "TORCHELASTIC"])
def test_a_restart_is_known_by_its_count(no_launcher, launcher, count, again):
    assert not is_restart()
    no_launcher.setenv(f"{launcher}_RESTART_COUNT", count)
    assert is_restart() is again


def test_torchruns_workers_have_one_folder_and_the_same_when_started_again(tmp_path):
    program = tmp_path / "worker.py"
    program.write_text("""
import os, pathlib, sys, time
from captioning.training.distributed.environment import default_run_dir
time.sleep(1.1 * int(os.environ["RANK"]))  # another second, and by its own clock another folder
print("folder", default_run_dir(), flush=True)
count = os.environ["TORCHELASTIC_RESTART_COUNT"]
pathlib.Path(f"said-{count}-{os.environ['RANK']}").touch()
while len(list(pathlib.Path().glob(f"said-{count}-?"))) < 3:  # torchrun ends the others with the first that fails
    time.sleep(0.1)
sys.exit(count == "0")
""")
    command = [*TORCHRUN, "--nproc-per-node=3", "--max-restarts=1", str(program)]
    with started(command, folder=tmp_path) as (torchrun,):
        assert torchrun.ended() == 0
        folders = re.findall(r"folder (\S+)", torchrun.said)
    assert len(folders) == 6
    assert len(set(folders)) == 1


def test_torchrun_leaves_one_run_folder_with_every_test_image_once(settings, tmp_path):
    command = [*TORCHRUN, "--nproc-per-node=2", str(ROOT / "train.py"), *settings, "trainer.devices=auto"]
    with started(command, folder=tmp_path) as (torchrun,):
        assert torchrun.ended() == 0, torchrun.said
    (run,) = (tmp_path / "outputs").glob("*/*")
    splits = json.loads((run / "splits.json").read_text())
    assert [line["id"] for line in lines_of(run / "predictions.jsonl")] == splits["test"]
    assert json.loads((run / "environment.json").read_text())["devices"].startswith("2 x cpu")


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_tasks_of_srun_leave_one_run_folder_named_by_the_job(settings, tmp_path, nodes):
    with srun(settings, settings, folder=tmp_path, nodes=nodes) as tasks:
        assert [task.ended() for task in tasks] == [0, 0], tasks[0].said + tasks[1].said
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["slurm"]
    (run,) = (tmp_path / "outputs" / "slurm").iterdir()
    assert run.name == "4321"
    assert json.loads((run / "environment.json").read_text())["devices"].startswith("2 x cpu")
    assert (run / "metrics.json").is_file()


@pytest.mark.slow
def test_one_task_of_a_slurm_job_starts_the_other_processes_itself(settings, tmp_path):
    variables = {
        "SLURM_JOB_ID": "77",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NAME": "train",
        "ENVIRONMENT": "BATCH",
    }
    with started([*TRAIN, *settings, "trainer.devices=2"], folder=tmp_path, environments=[variables]) as (job,):
        assert job.ended() == 0, job.said
    run = tmp_path / "outputs" / "slurm" / "77"
    assert json.loads((run / "environment.json").read_text())["devices"].startswith("2 x cpu")


def on_machine(number: int, port: int) -> dict[str, str]:
    """The environment of a process that starts those of its machine itself."""
    return {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "NODE_RANK": str(number)}


def test_machines_that_start_their_own_processes_leave_one_run_folder(settings, tmp_path):
    command = [*TRAIN, *settings, "trainer.num_nodes=2", "hydra.run.dir=run"]
    machines = [on_machine(number, port) for port in [free_port()] for number in range(2)]
    with started(command, command, folder=tmp_path, environments=machines) as processes:
        assert [process.ended() for process in processes] == [0, 0], processes[0].said + processes[1].said
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["devices"].startswith("2 x cpu")


def test_a_signal_ends_a_process_that_waits_for_another_machine(settings, tmp_path):
    command = [*TRAIN, *settings, "trainer.num_nodes=2", "hydra.run.dir=run"]
    with started(command, folder=tmp_path, environments=[on_machine(0, port := free_port())]) as (run,):
        wait_for(lambda: is_listening(port), of=run)
        run.process.terminate()
        assert run.ended(within=10) == -signal.SIGTERM


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


@pytest.mark.slow
def test_more_devices_than_tasks_are_refused_by_number(settings, tmp_path):
    asked = [*settings, "trainer.devices=auto", "trainer.num_nodes=3"]
    with srun(asked, asked, folder=tmp_path) as tasks:
        assert [task.ended() for task in tasks] == [1, 1]
    line = "trainer.devices=auto trainer.num_nodes=3: 2 processes were started; leave both settings out"
    assert tasks[0].errors == [f"error: {line}"]


# ---------------------------------------------------------------- the same in all

REFUSED = "error: the processes of this run aren't the same, so none of them trains: "


def refusal(first: list[str], second: list[str], folder: Path, **environment: str) -> str:
    """How two tasks with settings of their own refuse to begin, and that both end."""
    with srun(first, second, folder=folder, **environment) as tasks:
        assert [task.ended() for task in tasks] == [1, 1], tasks[0].said + tasks[1].said
    assert tasks[1].errors == []
    (line,) = tasks[0].errors
    assert line.startswith(REFUSED)
    return line.removeprefix(REFUSED)


def test_processes_with_other_settings_refuse_to_train(settings, tmp_path):
    line = refusal([*settings, "model.lr=0.203"], [*settings, "model.lr=0.237"], tmp_path)
    assert line == "other settings in process 1 than in process 0"


@pytest.mark.slow
def test_processes_with_other_data_refuse_to_train(settings, images, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(images, other)
    metadata = other / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a red square", "a dark red square", 1))
    line = refusal(settings, [*settings, f"data.path={other}"], tmp_path)
    assert "other data in process 1 than in process 0" in line.split("; ")


@pytest.mark.slow
def test_processes_with_the_same_data_in_other_places_begin(settings, images, tmp_path):
    shutil.copytree(images, tmp_path / "other")
    own = [[*settings, f"data.path={folder}"] for folder in (images, tmp_path / "other")]
    with srun(*own, folder=tmp_path) as tasks:
        assert [task.ended() for task in tasks] == [0, 0], tasks[0].said


def test_processes_with_other_code_refuse_to_train(settings, tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    module = tmp_path / "src" / "captioning" / "errors.py"
    module.write_text(module.read_text() + "\n# changed\n")
    program = (
        "import os, runpy, sys; "
        f"sys.path.insert(0, {str(tmp_path / 'src')!r} if os.environ['SLURM_PROCID'] == '1' else '.'); "
        f"sys.argv[0] = {str(ROOT / 'train.py')!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environments = [
        {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
         "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
        for rank in "01"
    ]  # fmt: skip
    command = [sys.executable, "-c", program, *settings, "trainer.devices=auto"]
    with started(command, command, folder=tmp_path, environments=environments) as tasks:
        assert [task.ended() for task in tasks] == [1, 1]
    assert tasks[0].errors == [REFUSED + "other code of captioning in process 1 than in process 0"]


@pytest.mark.slow
def test_a_mistake_that_torchruns_workers_share_is_said_once(settings, tmp_path):
    command = [*TORCHRUN, "--nproc-per-node=2", *TRAIN[1:], *settings, "model.lrr=1"]
    with started(command, folder=tmp_path) as (torchrun,):
        assert torchrun.ended() == 1
    assert len([line for line in torchrun.errors if "model.lrr=1: no such setting" in line]) == 1


# ---------------------------------------------------------------- one end


def is_training(folder: Path) -> bool:
    return any(folder.rglob("last.ckpt"))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_one_that_it_trained_with(settings, tmp_path, victim):
    with started([*TRAIN, *settings, *LONG, "trainer.devices=2"], folder=tmp_path) as (run,):
        wait_for(lambda: is_training(tmp_path), of=run)
        processes = trainers(run.process.pid)
        assert len(processes) == 2
        os.kill(processes[victim], signal.SIGKILL)
        wait_for(lambda: not any(is_alive(process) for process in processes), within=30)
        status = run.ended()
    assert status == (-signal.SIGKILL if victim == 0 else 1)
    (line,) = run.errors
    assert "resume from the last checkpoint with resume=RUN_FOLDER" in line
    expected = "process 1 was ended by SIGKILL" if victim else "lost another process"
    assert expected in line


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_of_torchrun_that_is_killed_ends_the_others(settings, tmp_path, victim):
    command = [*TORCHRUN, "--nproc-per-node=2", *TRAIN[1:], *settings, *LONG, "trainer.devices=auto"]
    with started(command, folder=tmp_path) as (torchrun,):
        wait_for(lambda: is_training(tmp_path), of=torchrun)
        processes = trainers(torchrun.process.pid)
        os.kill(processes[victim], signal.SIGKILL)
        wait_for(lambda: not any(is_alive(process) for process in processes), within=30)
        assert torchrun.ended() == 1


@pytest.mark.slow
def test_torchrun_resumes_in_the_same_folder_after_a_worker_was_killed(settings, tmp_path):
    epochs = ["trainer.max_epochs=40", *LONG[1:], "val_every_n_steps=4"]
    command = [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=1", *TRAIN[1:]]
    with started([*command, *settings, *epochs, "trainer.devices=auto"], folder=tmp_path) as (torchrun,):
        wait_for(lambda: is_training(tmp_path), of=torchrun)
        os.kill(trainers(torchrun.process.pid)[1], signal.SIGKILL)
        assert torchrun.ended() == 0, torchrun.said
    (run,) = (tmp_path / "outputs").glob("*/*")
    assert (run / "metrics.json").is_file()
    assert re.search(r"resum", torchrun.said)


@pytest.mark.slow
def test_nothing_trains_on_when_torchrun_itself_is_killed(settings, tmp_path):
    command = [*TORCHRUN, "--nproc-per-node=2", *TRAIN[1:], *settings, *LONG, "trainer.devices=auto"]
    with started(command, folder=tmp_path) as (torchrun,):
        wait_for(lambda: is_training(tmp_path), of=torchrun)
        processes = trainers(torchrun.process.pid)
        torchrun.process.kill()
        wait_for(lambda: not any(is_alive(process) for process in processes), within=60)


def test_of_a_process_that_stalls_the_other_says_how_long_it_waited(settings, tmp_path):
    command = [*TRAIN, *settings, *LONG, "trainer.devices=2", "collective_timeout_seconds=20"]
    with started(command, folder=tmp_path) as (run,):
        wait_for(lambda: is_training(tmp_path), of=run)
        _, second = trainers(run.process.pid)
        os.kill(second, signal.SIGSTOP)
        assert run.ended() == 1
        assert not is_alive(second)
    (line,) = run.errors
    assert "another process didn't answer within 20 s (collective_timeout_seconds)" in line


@pytest.mark.slow
def test_a_machine_that_never_comes_is_answered_with_how_many_came(settings, tmp_path):
    alone = [*settings, "trainer.num_nodes=2", "collective_timeout_seconds=5", "hydra.run.dir=run"]
    with started([*TRAIN, *alone], folder=tmp_path) as (run,):
        assert run.ended() == 1
    (line,) = run.errors
    assert "only 1 of 2 processes came within 5 s (collective_timeout_seconds)" in line


def test_a_timeout_of_no_time_is_refused(compose, settings):
    import captioning.run

    with pytest.raises(UserError, match=r"^collective_timeout_seconds must be above 0, got 0\.0$"):
        captioning.run.train(compose(*settings, "collective_timeout_seconds=0"))


def test_a_run_on_two_devices_leaves_one_run_folder_with_every_test_image_once_and_no_process(settings, tmp_path):
    with started([*TRAIN, *settings, "trainer.devices=2", "hydra.run.dir=run"], folder=tmp_path) as (first,):
        family: set[int] = set()
        while first.process.poll() is None:
            family |= set(descendants(first.process.pid))
            time.sleep(0.2)
        assert family
        assert first.process.returncode == 0, first.said
        assert not [process for process in family if is_alive(process)]
    assert {path.name for path in tmp_path.iterdir()} == {"run", first.file.name}
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert [line["id"] for line in lines_of(tmp_path / "run" / "predictions.jsonl")] == splits["test"]


# ---------------------------------------------------------------- every image once


@pytest.fixture(scope="module")
def judged(images, checkpoint, tmp_path_factory) -> Path:
    """Runs of 1 to 4 processes whose weights stay as they are, on 29 images, 3 of which are for validation."""
    folder = tmp_path_factory.mktemp("judged")
    fixed = ["model=git-base", f"model.checkpoint={checkpoint}", "model.lr=1.0e-12", "model.max_new_tokens=8"]
    split = [f"data.path={images}", "data.test_fraction=0.38", "data.batch_size=2", "logger=none"]
    for devices in (1, 2, 3, 4):
        statuses = run(*SMALL, *fixed, *split, folder=folder / str(devices), processes=devices)
        assert statuses == [0] * devices, said(folder / str(devices))
    return folder


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_any_number_of_processes_judges_every_image_once(judged, devices):
    splits = json.loads((judged / str(devices) / "splits.json").read_text())
    assert len(splits["test"]) % devices  # an odd number for each
    assert len(splits["val"]) == 3  # fewer than processes, for four
    assert [line["id"] for line in lines_of(judged / str(devices) / "predictions.jsonl")] == splits["test"]


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_any_number_of_processes_gives_the_numbers_of_one(judged, devices):
    one, several = metrics_of(judged / "1"), metrics_of(judged / str(devices))
    names = [name for name in one if name.startswith(("test/", "val/")) and "loss" not in name]
    assert len(names) > 40
    assert [several[name] for name in names] == [one[name] for name in names]
    for name in ("test/loss", "val/loss"):
        assert several[name] == pytest.approx(one[name], rel=1e-5)


@pytest.fixture(scope="module")
def seen(images, tmp_path_factory) -> dict[str, dict[int, list]]:
    """What each step trained on, by batch size, processes and accumulation, which have one product."""
    folder = tmp_path_factory.mktemp("seen")
    steps = {}
    for batch_size, devices, accumulation in ((8, 1, 1), (4, 2, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2)):
        name = f"{batch_size}x{devices}x{accumulation}"
        own = [
            f"data.batch_size={batch_size}",
            f"trainer.accumulate_grad_batches={accumulation}",
            f"+callbacks.seen={{_target_: started.SeenImages, folder: {folder / name}}}",
        ]
        both = [*SMALL, f"data.path={images}", "trainer.max_epochs=2", "data.captions=sample"]
        statuses = run(*both, *own, folder=folder / f"run-{name}", processes=devices)
        assert statuses == [0] * devices, said(folder / f"run-{name}")
        lines = [line for file in sorted((folder / name).iterdir()) for line in lines_of(file)]
        steps[name] = {
            step: sorted((line["id"], line["seed"]) for line in lines if line["step"] == step)
            for step in {line["step"] for line in lines}
        }
    return steps


@pytest.mark.parametrize("name", ["4x2x1", "2x4x1", "4x1x2", "2x2x2"])
def test_a_step_trains_on_the_same_images_however_many_processes_share_it(seen, name):
    one = seen["8x1x1"]
    assert [len(images) for images in one.values()] == [8, 8, 7, 8, 8, 7]  # 23 images, twice
    assert {image for image, _ in one[0]} != {image for image, _ in one[3]}  # each epoch has its own order
    assert seen[name] == one


# ---------------------------------------------------------------- models that are divided up


@pytest.fixture(scope="module")
def sharded(images, tmp_path_factory) -> Path:
    """The same training by DDP and by FSDP, whose captions have other lengths in each process."""
    folder = tmp_path_factory.mktemp("sharded")
    both = [*SMALL, f"data.path={images}", "trainer.max_epochs=3", "logger=csv"]
    both += ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5", "data.captions=all"]
    both += ["data.val_fraction=0.3", "model.temperature=1.0", "model.max_new_tokens=20"]
    both += ["collective_timeout_seconds=60"]
    for strategy in ("ddp", "fsdp"):
        statuses = run(*both, f"trainer.strategy={strategy}", folder=folder / strategy, processes=2)
        assert statuses == [0, 0], said(folder / strategy)
    return folder


def curve(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.parametrize("name", ["train/loss", "train/grad_norm", "val/loss"])
def test_fsdp_trains_as_ddp_does(sharded, name):
    ddp = curve(sharded / "ddp", name)
    assert len(ddp) >= 3
    assert curve(sharded / "fsdp", name) == pytest.approx(ddp, rel=1e-3)


def test_fsdp_captions_as_ddp_does(sharded):
    captions = [[line["prediction"] for line in lines_of(sharded / name / "predictions.jsonl")] for name in DIVIDED]
    assert captions[0] == captions[1]
    assert len({len(caption.split()) for caption in captions[0]}) > 1


DIVIDED = ("ddp", "fsdp")


def test_fsdp_leaves_the_checkpoint_that_ddp_leaves(sharded):
    ddp, fsdp = (torch.load(sharded / name / "checkpoints" / "last.ckpt", weights_only=True) for name in DIVIDED)
    assert ddp.keys() == fsdp.keys()
    assert ddp["state_dict"].keys() == fsdp["state_dict"].keys()
    for name, weight in ddp["state_dict"].items():
        torch.testing.assert_close(fsdp["state_dict"][name], weight, rtol=0, atol=1e-3)
    (ours,), (theirs,) = fsdp["optimizer_states"], ddp["optimizer_states"]
    assert [group["params"] for group in ours["param_groups"]] == [group["params"] for group in theirs["param_groups"]]
    for number, state in theirs["state"].items():
        torch.testing.assert_close(ours["state"][number]["exp_avg"], state["exp_avg"], rtol=0, atol=1e-3)


def test_fsdp_leaves_the_models_folder_whole(sharded):
    from safetensors.torch import load_file

    ddp, fsdp = (load_file(sharded / name / "model" / "model.safetensors") for name in DIVIDED)
    assert {name: weight.shape for name, weight in fsdp.items()} == {name: weight.shape for name, weight in ddp.items()}


@pytest.mark.parametrize("strategy", DIVIDED)
def test_either_resumes_from_the_others_checkpoint(sharded, tmp_path, strategy):
    other = next(name for name in DIVIDED if name != strategy)
    folder = tmp_path / "run"
    shutil.copytree(sharded / other, folder)
    longer = [f"trainer.strategy={strategy}", "trainer.max_epochs=4", "model.lr_schedule=constant"]
    assert run(f"resume={folder}", *longer, folder=folder, processes=2) == [0, 0], said(folder)
    before = torch.load(sharded / other / "checkpoints" / "last.ckpt", weights_only=True)
    after = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert after["global_step"] > before["global_step"]
    steps = [state["step"] for state in after["optimizer_states"][0]["state"].values()]
    assert {int(step) for step in steps} == {after["global_step"]}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["trainer.strategy=fsdp", "trainer.precision=16-mixed"], r"^trainer\.strategy=fsdp and trainer\.precision="),
        (["trainer.strategy=fsdp", "callbacks=ema"], r"^trainer\.strategy=fsdp and callbacks=ema"),
        (["trainer.strategy=fsdp_cpu_offload"], r"^trainer\.strategy=fsdp_cpu_offload: .* take fsdp$"),
        (["trainer.strategy=ddp_spawn"], r"^trainer\.strategy=ddp_spawn: .*trainer\.strategy=ddp, or leave it out$"),
        (["trainer.strategy=ddp_notebook_find_unused_parameters_true"], r"^trainer\.strategy=ddp_notebook_find_unused"),
    ],
)
def test_a_strategy_that_cannot_work_is_refused_by_name(compose, settings, overrides, line):
    import captioning.run

    with pytest.raises(UserError, match=line):
        captioning.run.train(compose(*settings, *overrides))
