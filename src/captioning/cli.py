"""The `captioning` command."""

import inspect
import sys
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from captioning import __version__
from captioning.errors import UserError
from captioning.models.decoding import decoding_settings


class _Commands(TyperGroup):
    """Answers a mistake in one line on standard error; needs Hydra, which takes seconds to import, only then."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(error, UserError | OSError) or "hydra" in sys.modules:  # else it can't be Hydra's error
                from captioning.config.messages import friendly_errors

                with friendly_errors():
                    raise
            raise


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None
)

Model = Annotated[str, typer.Argument(help="A run folder, a .ckpt of one, a Hugging Face folder, or a Hub name.")]
SETTINGS = "As for train.py: data=local, data.path=PATH, trainer.devices=2, …"
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help=SETTINGS)]
RESULTS = "Where results go; by default a new folder in outputs."
OutputDir = Annotated[Path | None, typer.Option(metavar="DIR", help=RESULTS)]
INPUTS = "Files, folders, 'patterns/**/*.jpg', URLs; - or none: a list on standard input."
OUTPUT = "*.txt, *.jsonl, *.csv or *.parquet; standard output by default."
SHARD = "Caption share I of N, from 0/N to N-1/N, into FILE-I-of-N; torchrun and srun set it."
TOKEN = "Requests must bring the token in it, by default that in $CAPTIONING_TOKEN."
Prefix = Annotated[str, typer.Option(help="What each caption begins with; the model continues it.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images in a batch; 8 on CPUs by default, else 32.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, xpu; an accelerator by default.")]
Samples = Annotated[int, typer.Option(min=0, help="Test images in the model card, small.")]
License = Annotated[str | None, typer.Option(metavar="ID", help="Of the model: mit, apache-2.0, …")]
DataLicense = Annotated[str | None, typer.Option(metavar="TEXT", help="Of the training data.")]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything into this file, too.")]


def _with_decoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting of decoding; the command takes those that are given as keywords."""
    options = []
    for name, kind, _, description in decoding_settings():
        annotation = Annotated[kind | None, typer.Option(help=description, show_default="the model's")]  # type: ignore[valid-type]
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    @wraps(command)
    def with_given(**arguments: Any) -> None:
        absent = {option.name for option in options if arguments[option.name] is None}
        command(**{name: value for name, value in arguments.items() if name not in absent})

    signature = inspect.signature(command)
    others = list(signature.parameters.values())[:-1]
    with_given.__signature__ = signature.replace(parameters=[*others, *options])  # type: ignore[attr-defined]
    return with_given


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"captioning {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Check data, and evaluate, apply, publish and compare image captioners.

    Train with `python train.py model=git-base data=local data.path=PATH`; the README has the rest.
    """


@app.command()
def check(settings: Settings = None, output_dir: OutputDir = None) -> None:
    """Check every image and caption of a data set before training.

    Lists what would be left out and why, images in two splits, and what else is worth a look, in the terminal, a page
    and a file. The exit status is 0 if the data are ready to be trained on, else 1.
    """
    from captioning.config.compose import compose_settings
    from captioning.config.schema import resolve
    from captioning.training.check import check as check_data

    overrides = settings or []
    folder = output_dir or Path("outputs", "check", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    composed = resolve(compose_settings(overrides, command="check", folder=folder))
    sys.exit(0 if check_data(composed.data, overrides, folder) else 1)


@app.command()
def evaluate(
    model: Model,
    settings: Settings = None,
    split: Annotated[str, typer.Option(help="Which images: test, val, train, or all.")] = "test",
    output_dir: OutputDir = None,
) -> None:
    """Test a model on a data set, with a report as after training.

    A run is evaluated on its own data, unless data=… names others. Decoding is chosen by model.max_new_tokens,
    min_new_tokens, num_beams, length_penalty, repetition_penalty, no_repeat_ngram_size, temperature and top_p.
    """
    from captioning.run import evaluate as evaluate_model
    from captioning.training.distributed.environment import dated_run_dir, default_run_dir, started_processes

    if output_dir is None:
        output_dir = Path(default_run_dir() if started_processes() else dated_run_dir())
        sys.argv += ["--output-dir", str(output_dir)]  # Lightning starts further processes with this command line
    evaluate_model(model, settings or [], split=split, folder=output_dir)


@app.command()
@_with_decoding_options
def caption(
    model: Model,
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT", help=INPUTS)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help=OUTPUT)] = None,
    sidecars: Annotated[bool, typer.Option("--sidecars", help="Write a NAME.txt beside each image instead.")] = False,
    form: Annotated[str | None, typer.Option("--format", help="lines, jsonl, csv or parquet.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Caption images again that have a caption.")] = False,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help=SHARD)] = None,
    errors: Annotated[Path | None, typer.Option(metavar="FILE", help="JSONL of all images that failed.")] = None,
    prefix: Prefix = "",
    trigger: Annotated[str, typer.Option(help="A word to write before each caption, with a comma.")] = "",
    suffix: Annotated[str, typer.Option(help="Text to write after each caption.")] = "",
    batch_size: BatchSize = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one for each core by default.")] = None,
    device: Device = None,
    **decoding: Any,
) -> None:
    """Caption images, on any number of processes.

    Images that have a caption in the output are skipped, so the same command resumes after any interruption. The exit
    status is 0 if all have a caption, 2 if some failed (they are listed at the end), and 75 after Ctrl-C. Under
    torchrun and srun failed images don't change the status: it would stop the other processes.
    """
    from captioning.training.signals import INTERRUPTED, Interrupted, handle_signals

    stopped_by, summary = "", None
    try:
        with handle_signals():
            from captioning.inference.captioner import local_device
            from captioning.inference.folder import CaptionTemplate, Summary, caption_images, report
            from captioning.inference.inputs import find_images, read_list
            from captioning.inference.outputs import make_output, parse_shard, part_path
            from captioning.inference.pretrained import find_model
            from captioning.training.distributed.environment import rank, started_processes, under_torchrun

            find_model(model)
            launched = None if shard else started_processes()
            named = [name for name in inputs or [] if name != "-"]
            is_listed = "-" in (inputs or []) or (not named and not sys.stdin.isatty())
            if is_listed and launched and under_torchrun():
                raise UserError("torchrun gives standard input to one process alone: name files or folders")
            found = find_images(named, listed=read_list(sys.stdin.buffer.read()) if is_listed else [])
            images, part = found.images, parse_shard(shard) if shard else None
            if launched:
                part = rank(), launched[0] * launched[1]
            to = make_output(images, file=output, sidecars=sidecars, form=form, shard=part)
            if part:
                images, errors = images[part[0] :: part[1]], errors and part_path(errors, part)
            summary = Summary(len(images) + len(found.failed), dict(found.failed))
            template = CaptionTemplate(trigger, suffix)
            device = device or (local_device() if launched else None)
            options = {"prefix": prefix, "batch_size": batch_size, "workers": workers, **decoding}
            caption_images(model, images, to, summary, template=template, overwrite=overwrite, device=device, **options)
    except Interrupted as interrupted:
        stopped_by = str(interrupted)
    if summary is None:
        typer.echo(f"stopped by {stopped_by}; the same command resumes", err=True)
    else:
        report(summary, to, errors=errors, stopped_by=stopped_by)
    sys.exit(INTERRUPTED if summary is None or stopped_by else 2 if summary.failed and not launched else 0)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in; then require a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help=TOKEN)] = None,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch images from public addresses.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch, at most.")] = 32,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest request.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image.")] = 50,
    max_images: Annotated[int, typer.Option(min=1, help="Images in a request.")] = 32,
    max_queue: Annotated[int, typer.Option(min=1, help="Images that wait, of all requests.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request, and for its answer.")] = 60,
    device: Device = None,
) -> None:
    """Caption images in the browser and over HTTP.

    It needs the extra serve. The page takes images that are dropped, pasted or chosen; /docs describes the API. Only
    this machine can reach it unless --host says otherwise.
    """
    from captioning.inference.serve import read_token, require_packages
    from captioning.inference.serve import serve as serve_model

    require_packages()
    from captioning.inference.serve.limits import Limits

    body, pixels, token = round(max_megabytes * 1e6), round(max_megapixels * 1e6), read_token(token_file)
    limits = Limits(body=body, pixels=pixels, images=max_images, queue=max_queue, seconds=timeout)
    options: dict[str, Any] = {"batch_size": batch_size, "allow_urls": allow_urls, "token": token, "device": device}
    serve_model(model, host=host, port=port, limits=limits, **options)


@app.command()
def export(
    run: Model,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    form: Annotated[str, typer.Option("--format", help="transformers, or onnx (the extra onnx).")] = "transformers",
    int8: Annotated[bool, typer.Option("--int8", help="ONNX weights in 8 bits: a quarter of the size.")] = False,
    samples: Samples = 4,
    license: License = None,  # noqa: A002
    data_license: DataLicense = None,
) -> None:
    """Write a Hugging Face folder, or ONNX, with a model card.

    transformers loads the folder without this package.
    --format onnx adds a program, caption.py, that needs neither torch nor transformers.
    """
    from captioning.export.huggingface import export as export_model

    options: dict[str, Any] = {"license": license, "data_license": data_license, "form": form, "int8": int8}
    if shown := export_model(run, folder, samples=samples, **options):
        typer.echo(f"the model card shows {len(shown)} test images, in {folder}/samples; --samples 0 shows none")
    typer.echo(folder)


@app.command()
def push(
    run: Model,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Of the model on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and upload nothing.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite what another tool uploaded.")] = False,
    samples: Samples = 4,
    license: License = None,  # noqa: A002
    data_license: DataLicense = None,
) -> None:
    """Upload a model with its card to the Hugging Face Hub.

    It is private by default. Log in with `hf auth login` or set HF_TOKEN.
    After an interruption, run the same command again.
    """
    from captioning.export.push import push as push_model

    kinds = {"public": public, "dry_run": dry_run, "replace": replace}
    upload = push_model(run, name, **kinds, samples=samples, license=license, data_license=data_license)
    for file, size in upload.files.items():
        typer.echo(f"{size:>15,}  {file}")
    typer.echo(f"{sum(upload.files.values()):>15,}  bytes in {len(upload.files)} files")
    seen_by = "public" if public else "private"
    typer.echo(f"{f'would go, {seen_by}, to' if dry_run else f'{seen_by}:'} {upload.where}")


def _require_writable(json: Path | None) -> None:
    if json and (json.is_dir() or not json.absolute().parent.is_dir()):
        raise UserError(f"--json {json}: name a file, in a folder that exists")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; the first is the baseline.")],
    metric: Annotated[str, typer.Option(help="The metric that ranks the changed captions.")] = "wer",
    captions: Annotated[int, typer.Option(min=0, help="How many improved and worsened captions to show.")] = 5,
    json: Json = None,
) -> None:
    """Compare runs: metrics, verdicts, settings, captions."""
    from dataclasses import asdict

    from captioning.files import write_json
    from captioning.runs.comparison import compare as compare_runs
    from captioning.runs.comparison_table import print_comparison

    _require_writable(json)
    comparison = compare_runs(runs, metric=metric, captions=captions)
    if json:
        write_json(json, asdict(comparison))
    print_comparison(comparison)


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Write a run's report.html again, from its folder alone."""
    from captioning.runs.report.page import write_report

    typer.echo(write_report(run))


@app.command()
def sweep_report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a sweep, or any folder with runs in it.")],
    json: Json = None,
) -> None:
    """Rank the jobs of a sweep, and write its sweep.html."""
    from captioning.files import write_json
    from captioning.sweeps.report import as_json, read_sweep
    from captioning.sweeps.table import print_sweep

    _require_writable(json)
    sweep = read_sweep(folder)
    if json:
        write_json(json, as_json(sweep))
    print_sweep(sweep)
    from captioning.sweeps.page import write_sweep_page  # slow: it draws

    typer.echo(write_sweep_page(sweep))


@app.command()
@_with_decoding_options
def caption_ray(
    model: Model,
    images: Annotated[str, typer.Argument(help="A folder, or a URI such as s3://BUCKET/FOLDER; all in it is read.")],
    output: Annotated[str, typer.Argument(help="A new folder, or a URI, for Parquet files.")],
    captioners: Annotated[int | None, typer.Option(min=1, help="At most; one for each GPU or 4 cores.")] = None,
    prefix: Prefix = "",
    batch_size: BatchSize = None,
    **decoding: Any,
) -> None:
    """Caption a folder or bucket on many machines with Ray Data.

    It needs the extra ray; RAY_ADDRESS names a cluster. Each image is a row: path, caption, score, and error where it
    has no caption. The exit status is 2 if some have none.
    """
    from captioning.inference.ray import caption_with_ray

    options = {"prefix": prefix, "batch_size": batch_size, **decoding}
    total, failed = caption_with_ray(model, images, output, captioners=captioners, **options)
    typer.echo(f"{total - failed:,} images captioned, {failed:,} failed: {output}", err=True)
    sys.exit(2 if failed else 0)


def main() -> None:
    """Run the command line."""
    app()
