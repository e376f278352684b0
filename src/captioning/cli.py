"""The `captioning` command."""

from typing import Annotated

import typer

from captioning import __version__

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
    """Caption pictures with a fine-tuned GIT.

    Training is `python train.py model=git-base data=folder data.path=FOLDER`; its README has the rest.
    """


def main() -> None:
    """Run the command line."""
    app()
