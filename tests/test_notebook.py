"""The example notebook runs, and what is stored of its output is small.

``python tests/test_notebook.py`` runs it and stores its output again.
"""

import base64
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_output

NOTEBOOK = Path(__file__).parent.parent / "examples" / "copy_paste.ipynb"
LARGEST_FILE, LARGEST_IMAGE = 600_000, 250_000
"""Bytes."""


def run(folder: Path) -> nbformat.NotebookNode:
    """The notebook, run in a folder, with its output but for that to stderr, which has paths of the machine."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources, record_timing=False).execute()
    for cell in code_cells(notebook):
        printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        others = [output for output in cell.outputs if output.output_type != "stream"]
        cell.outputs = [new_output("stream", text=printed)] * bool(printed) + others
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def images(notebook: nbformat.NotebookNode) -> list[bytes]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path):
    """And shows what it showed when it was stored, but for the numbers, which another machine may round otherwise."""
    stored, found = nbformat.read(NOTEBOOK, as_version=4), run(tmp_path)
    for cell, again in zip(code_cells(stored), code_cells(found), strict=True):
        assert [output.output_type for output in again.outputs] == [output.output_type for output in cell.outputs]
    assert len(images(found)) == 2
    assert (tmp_path / "runs" / "my_ablation" / "report.html").exists()


def test_what_is_stored_is_complete_small_and_of_no_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(
        range(1, len(list(code_cells(notebook))) + 1)
    )
    assert NOTEBOOK.stat().st_size < LARGEST_FILE
    stored = images(notebook)
    assert len(stored) == 2
    assert all(2_000 < len(image) < LARGEST_IMAGE for image in stored)
    text = json.dumps([[cell.source, *cell.get("outputs", [])] for cell in notebook.cells])
    assert not re.search(r'[" (](/work|/home|/root|/tmp|/Users)/', text)
    assert "Traceback" not in text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(run(Path(folder)), NOTEBOOK)
