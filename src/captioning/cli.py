"""The `captioning` command."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from captioning import __version__
from captioning.errors import UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


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
    """Evaluate captioners, compare them, look at their runs, and check data before a run.

    Training is `python train.py model=git-base data=local data.path=PATH`; its README has the rest.
    """


def _require_writable(json: Path | None) -> None:
    if json and (json.is_dir() or not json.absolute().parent.is_dir()):
        raise UserError(f"--json {json}: name a file, in a folder that exists")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; the first is the baseline.")],
    metric: Annotated[str, typer.Option(help="What the captions that changed most are chosen by.")] = "wer",
    captions: Annotated[int, typer.Option(min=0, help="How many improved, and how many worsened captions.")] = 5,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything into this file, too.")] = None,
) -> None:
    """Tell whether runs differ, by the test captions in their folders."""
    from dataclasses import asdict

    from captioning.compare import print_comparison
    from captioning.comparison import compare as compare_runs
    from captioning.run_folder import write_json

    _require_writable(json)
    comparison = compare_runs(runs, metric=metric, captions=captions)
    if json:
        write_json(json, asdict(comparison))
    print_comparison(comparison)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
) -> None:
    """Make a run's report.html again, from its folder alone."""
    from captioning.report import write_report

    typer.echo(write_report(run))


@app.command()
def sweep_report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a sweep, or any folder with runs in it.")],
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything into this file, too.")] = None,
) -> None:
    """Show the jobs of a sweep beside each other: which is best, and which settings matter. Writes its sweep.html."""
    from captioning.run_folder import write_json
    from captioning.sweeps.report import as_json, read_sweep
    from captioning.sweeps.table import print_sweep

    _require_writable(json)
    sweep = read_sweep(folder)
    if json:
        write_json(json, as_json(sweep))
    print_sweep(sweep)
    from captioning.report.sweep_page import write_sweep_page  # draws, which takes longest

    typer.echo(write_sweep_page(sweep))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, a .ckpt of one, a Hugging Face folder, or a Hub name.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="As for train.py: data=…, model.num_beams=4, trainer.devices=2, …"),
    ] = None,
    split: Annotated[str, typer.Option(help="Which pictures: test, val, train, or all.")] = "test",
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where results go.", show_default="outputs/DATE/TIME")
    ] = None,
) -> None:
    """Caption the pictures of a data set and judge the captions: numbers, captions and report as after training.

    A run is evaluated on its own data, unless data=… names others. Decoding is chosen by model.max_new_tokens,
    min_new_tokens, num_beams, length_penalty, repetition_penalty, no_repeat_ngram_size, temperature and top_p.
    """
    from captioning.mistakes import answered_in_one_line

    with answered_in_one_line():
        from captioning.evaluate import evaluate as evaluate_model

        evaluate_model(model, settings or [], split=split, folder=output_dir)


@app.command()
def caption_ray(
    model: Annotated[str, typer.Argument(help="A run folder, a .ckpt of one, a Hugging Face folder, or a Hub name.")],
    pictures: Annotated[str, typer.Argument(help="A folder, or a URI such as s3://BUCKET/FOLDER; all in it is read.")],
    output: Annotated[str, typer.Argument(help="A new folder, or a URI, for Parquet files.")],
    captioners: Annotated[
        int | None, typer.Option(min=1, help="At once.", show_default="one for each GPU, or for some cores")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What every caption begins with.")] = "",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures that a model sees at once.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="The longest caption.", show_default="the model's")] = None,
    num_beams: Annotated[int | None, typer.Option(help="1 is greedy.", show_default="the model's")] = None,
) -> None:
    """Caption a folder or bucket on many machines, with Ray Data (the extra ray); RAY_ADDRESS names a cluster.

    Each picture is a row: path, caption, score, and error where it has no caption. The exit status is 2 where some
    have none.
    """
    from captioning.on_ray import caption_with_ray

    decoding = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    given = {name: value for name, value in decoding.items() if value is not None}
    outcome = caption_with_ray(
        model, pictures, output, captioners=captioners, prefix=prefix, batch_size=batch_size, **given
    )
    typer.echo(
        f"{outcome.pictures - outcome.failed:,} pictures captioned, {outcome.failed:,} failed: {output}", err=True
    )
    raise typer.Exit(2 if outcome.failed else 0)


@app.command()
def check(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="As for train.py: data=local, data.path=PATH, data.strict=true, …"),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where results go.", show_default="outputs/check/DATE_TIME")
    ] = None,
) -> None:
    """Look at every picture and caption of a data set before anything is trained on them.

    Tells what would be left out and why, which pictures are in two splits, and what is worth a look, in the terminal, a
    page and a file. The exit status is 0 where a training with these settings would start, else 1.
    """
    from captioning.mistakes import answered_in_one_line

    with answered_in_one_line():
        from captioning.check import check as check_data

        ready = check_data(settings or [], folder=output_dir)
    raise typer.Exit(0 if ready else 1)


def main() -> None:
    """Run the command line. A user's mistake ends in one line on standard error and exit status 1."""
    try:
        app()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
