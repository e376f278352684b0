import ast
import os
import re
import sys

import nbformat
import pytest
from conftest import ROOT
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    """The quickstart, run from top to bottom."""
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "examples")}})
    client.create_kernel_manager()
    client.km._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
    )
    client.execute(env={**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("notebook"))})
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[dict]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def said(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


@pytest.mark.slow
def test_the_data_are_found_good(executed):
    assert "ready" in said(executed).lower()


@pytest.mark.slow
def test_the_model_learns_to_caption(executed):
    wer = next(output["data"]["text/plain"] for output in outputs(executed) if "test/wer" in str(output.get("data")))
    assert ast.literal_eval(wer)["test/wer"] < 0.9


@pytest.mark.slow
def test_data_curves_and_captions_are_drawn(executed):
    assert sum("image/png" in output.get("data", {}) for output in outputs(executed)) == 3


@pytest.mark.slow
def test_no_command_of_it_fails(executed):
    assert not re.findall(r"^error|Traceback", said(executed), re.MULTILINE)


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert outputs(notebook) == []
