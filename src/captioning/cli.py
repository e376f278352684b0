"""The `captioning` command."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from captioning import __version__
from captioning.errors import UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

MODELS = "the model's"  # settings of decoding
Model = Annotated[str, typer.Argument(help="A run folder, a .ckpt of one, a Hugging Face folder, or a Hub name.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="The longest caption.", show_default=MODELS)]
NumBeams = Annotated[int | None, typer.Option(help="1 is greedy.", show_default=MODELS)]

Samples = Annotated[int, typer.Option(min=0, help="Test images in the model card, small.")]
License = Annotated[str | None, typer.Option(metavar="ID", help="Of the model: mit, apache-2.0, …")]
DataLicense = Annotated[str | None, typer.Option(metavar="TEXT", help="Of the data that it learned from.")]


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
    """Caption images, evaluate captioners, compare them, look at their runs, hand them over, and check data.

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

    from captioning.files import write_json
    from captioning.runs.comparison import compare as compare_runs
    from captioning.runs.comparison_table import print_comparison

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
    from captioning.runs.report import write_report

    typer.echo(write_report(run))


@app.command()
def sweep_report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a sweep, or any folder with runs in it.")],
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything into this file, too.")] = None,
) -> None:
    """Show the jobs of a sweep beside each other: which is best, and which settings matter. Writes its sweep.html."""
    from captioning.files import write_json
    from captioning.sweeps.report import as_json, read_sweep
    from captioning.sweeps.table import print_sweep

    _require_writable(json)
    sweep = read_sweep(folder)
    if json:
        write_json(json, as_json(sweep))
    print_sweep(sweep)
    from captioning.sweeps.page import write_sweep_page  # draws, which takes longest

    typer.echo(write_sweep_page(sweep))


@app.command()
def evaluate(
    model: Model,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="As for train.py: data=…, model.num_beams=4, trainer.devices=2, …"),
    ] = None,
    split: Annotated[str, typer.Option(help="Which images: test, val, train, or all.")] = "test",
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where results go.", show_default="outputs/DATE/TIME")
    ] = None,
) -> None:
    """Caption the images of a data set and judge the captions: numbers, captions and report as after training.

    A run is evaluated on its own data, unless data=… names others. Decoding is chosen by model.max_new_tokens,
    min_new_tokens, num_beams, length_penalty, repetition_penalty, no_repeat_ngram_size, temperature and top_p.
    """
    from captioning.config.messages import friendly_errors

    with friendly_errors():
        from captioning.run import evaluate as evaluate_model

        evaluate_model(model, settings or [], split=split, folder=output_dir)


@app.command()
def caption(
    model: Model,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Files, folders, 'patterns/**/*.jpg', URLs; - or none: a list on stdin."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="*.txt, *.jsonl, *.csv or *.parquet.", show_default="stdout"
        ),
    ] = None,
    sidecars: Annotated[bool, typer.Option("--sidecars", help="A NAME.txt beside each image instead.")] = False,
    form: Annotated[
        str | None, typer.Option("--format", help="lines, jsonl, csv or parquet.", show_default="as FILE's name says")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Caption again what has a caption already.")] = False,
    errors: Annotated[Path | None, typer.Option(metavar="FILE", help="JSONL of all images that failed.")] = None,
    prefix: Annotated[str, typer.Option(help="What every caption begins with, for the model to go on from.")] = "",
    trigger: Annotated[str, typer.Option(help="A word to write before every caption, with a comma.")] = "",
    suffix: Annotated[str, typer.Option(help="What to write after every caption.")] = "",
    max_new_tokens: MaxNewTokens = None,
    min_new_tokens: Annotated[int | None, typer.Option(help="The shortest caption.", show_default=MODELS)] = None,
    num_beams: NumBeams = None,
    length_penalty: Annotated[float | None, typer.Option(help="Of beams; above 0: long.", show_default=MODELS)] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="1 is none.", show_default=MODELS)] = None,
    no_repeat_ngram_size: Annotated[int | None, typer.Option(help="0 is none.", show_default=MODELS)] = None,
    temperature: Annotated[float | None, typer.Option(help="Draws captions at random.", show_default="not")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of the likeliest words, with a temperature.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images that the model sees at once.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="as many as cores")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, xpu.", show_default="the best")] = None,
) -> None:
    """Caption images, and go on where an earlier run was ended: what has a caption in the output is skipped.

    The exit status is 0 where all have a caption, 2 where some failed (they are told in the end), and 75 after Ctrl-C.
    """
    from captioning.training.signals import quit_on_signals

    quit_on_signals()
    from captioning.config.messages import friendly_errors

    with friendly_errors():
        from captioning.inference.folder import CaptionTemplate, tell
        from captioning.inference.folder import caption as caption_all
        from captioning.inference.inputs import find_images, read_list
        from captioning.inference.outputs import make_output

        named = [name for name in inputs or [] if name != "-"]
        is_listed = "-" in (inputs or []) or (not named and not sys.stdin.isatty())
        found = find_images(named, listed=read_list(sys.stdin.buffer.read()) if is_listed else [])
        to = make_output(found.images, file=output, sidecars=sidecars, form=form)
        decoding = _given(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            temperature=temperature,
            top_p=top_p,
        )
        options = {"prefix": prefix, "batch_size": batch_size, "workers": workers, "device": device, **decoding}
        counts = caption_all(model, found, to, wording=CaptionTemplate(trigger, suffix), overwrite=overwrite, **options)
        raise typer.Exit(tell(counts, to, errors=errors))


@app.command()
def caption_ray(
    model: Model,
    images: Annotated[str, typer.Argument(help="A folder, or a URI such as s3://BUCKET/FOLDER; all in it is read.")],
    output: Annotated[str, typer.Argument(help="A new folder, or a URI, for Parquet files.")],
    captioners: Annotated[
        int | None, typer.Option(min=1, help="At once.", show_default="one for each GPU, or for some cores")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What every caption begins with.")] = "",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images that a model sees at once.")] = None,
    max_new_tokens: MaxNewTokens = None,
    num_beams: NumBeams = None,
) -> None:
    """Caption a folder or bucket on many machines, with Ray Data (the extra ray); RAY_ADDRESS names a cluster.

    Each image is a row: path, caption, score, and error where it has no caption. The exit status is 2 where some
    have none.
    """
    from captioning.inference.ray import caption_with_ray

    given = _given(max_new_tokens=max_new_tokens, num_beams=num_beams)
    outcome = caption_with_ray(
        model, images, output, captioners=captioners, prefix=prefix, batch_size=batch_size, **given
    )
    _tell(outcome, output)


@app.command()
def predict(
    model: Model,
    images: Annotated[Path, typer.Argument(help="A folder; all folders in it are read.")],
    output: Annotated[Path, typer.Argument(help="A new folder for a .jsonl file of each process.")],
    accelerator: Annotated[str, typer.Option(help="As Lightning has it: auto, cpu, gpu, …")] = "auto",
    devices: Annotated[str, typer.Option(help="How many; torchrun and srun decide it themselves.")] = "auto",
    prefix: Annotated[str, typer.Option(help="What every caption begins with.")] = "",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once, of each process.")] = None,
    max_new_tokens: MaxNewTokens = None,
    num_beams: NumBeams = None,
) -> None:
    """Caption a folder on all devices with Lightning: torchrun --no-python --nproc-per-node 8 captioning predict …

    Each image is a line: path, caption, score, and error where it has no caption. The exit status is 2 where some
    have none.
    """
    from captioning.config.messages import friendly_errors

    with friendly_errors():
        from captioning.inference.predict import predict as predict_captions

        outcome = predict_captions(
            model,
            images,
            output,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            prefix=prefix,
            **_given(max_new_tokens=max_new_tokens, num_beams=num_beams),
        )
    _tell(outcome, output)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in; then a token is wise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Requests must bring the token in it.", show_default="$CAPTIONING_TOKEN"),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images that requests name, from public addresses.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the model sees at once, at most.")] = 32,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Of a request.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Of an image.")] = 50,
    max_images: Annotated[int, typer.Option(min=1, help="Of a request.")] = 32,
    max_queue: Annotated[int, typer.Option(min=1, help="Images that wait, of all requests.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request, and for its answer.")] = 60,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, xpu.", show_default="the best")] = None,
) -> None:
    """Caption images in the browser, and over HTTP (the extra serve).

    The page takes images that are dropped, pasted, chosen or taken; /docs has the API. Only this machine can reach
    it unless --host says otherwise.
    """
    from captioning.config.messages import friendly_errors
    from captioning.terminal import quiet_transformers

    with friendly_errors():
        quiet_transformers()
        from captioning.inference.serve import read_token, require_packages
        from captioning.inference.serve import serve as serve_model

        require_packages()
        from captioning.inference.serve.limits import Limits

        limits = Limits(
            body=round(max_megabytes * 1e6),
            pixels=round(max_megapixels * 1e6),
            images=max_images,
            queue=max_queue,
            seconds=timeout,
        )
        serve_model(
            model,
            host=host,
            port=port,
            limits=limits,
            batch_size=batch_size,
            allow_urls=allow_urls,
            token=read_token(token_file),
            device=device,
            say=typer.echo,
        )


@app.command()
def export(
    run: Model,
    folder: Annotated[Path, typer.Argument(help="A new one.")],
    form: Annotated[str, typer.Option("--format", help="transformers, or onnx (the extra onnx).")] = "transformers",
    int8: Annotated[bool, typer.Option("--int8", help="Of onnx: weights in 8 bits, a quarter of the size.")] = False,
    samples: Samples = 4,
    license: License = None,  # noqa: A002
    data_license: DataLicense = None,
) -> None:
    """Write a Hugging Face folder with a model card: transformers alone loads it, and captions as was tested.

    As ONNX it brings a program that needs onnxruntime, and neither torch nor transformers.
    """
    from captioning.config.messages import friendly_errors
    from captioning.export.huggingface import export as export_model
    from captioning.terminal import quiet_transformers

    with friendly_errors():
        quiet_transformers()
        card = export_model(
            run, folder, samples=samples, license=license, data_license=data_license, form=form, int8=int8
        )
        for sample in card.samples:
            typer.echo(f"in the card: {sample.caption} ({sample.file}; --samples 0 shows no images)")
        typer.echo(folder)


@app.command()
def push(
    run: Model,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Of the model on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Everybody may see it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Write over what another tool put there.")] = False,
    samples: Samples = 4,
    license: License = None,  # noqa: A002
    data_license: DataLicense = None,
) -> None:
    """Upload a run's best model with its card to the Hugging Face Hub: private, unless told otherwise.

    The login is that of `hf auth login` or HF_TOKEN. After an interruption the same command goes on.
    """
    from captioning.config.messages import friendly_errors
    from captioning.export.push import push as push_model
    from captioning.terminal import quiet_transformers

    with friendly_errors():
        quiet_transformers()
        kinds = {"public": public, "dry_run": dry_run, "replace": replace}
        upload = push_model(run, name, **kinds, samples=samples, license=license, data_license=data_license)
        for file, size in upload.files.items():
            typer.echo(f"{size:>15,}  {file}")
        typer.echo(f"{sum(upload.files.values()):>15,}  bytes in {len(upload.files)} files")
        seen_by = "public" if public else "private"
        typer.echo(f"{f'would go, {seen_by}, to' if dry_run else f'{seen_by}:'} {upload.where}")


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _tell(outcome: Any, output: Path | str) -> None:
    """Of a folder's images, how many have captions; ends with the status that says so."""
    typer.echo(f"{outcome.images - outcome.failed:,} images captioned, {outcome.failed:,} failed: {output}", err=True)
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
    """Check every image and caption of a data set before anything is trained on them.

    Shows what would be left out and why, which images are in two splits, and what is worth a look, in the terminal, a
    page and a file. The exit status is 0 if the data are ready to be trained on, else 1.
    """
    from captioning.config.messages import friendly_errors

    with friendly_errors():
        from captioning.config.compose import compose_settings
        from captioning.config.schema import resolve
        from captioning.training.check import check as check_data

        overrides = settings or []
        folder = output_dir or Path("outputs", "check", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        composed = resolve(compose_settings(overrides, command="check", folder=folder))
        ready = check_data(composed.data, overrides, folder)
    raise typer.Exit(0 if ready else 1)


def main() -> None:
    """Run the command line. A user's mistake ends in one line on standard error and exit status 1."""
    try:
        app()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
