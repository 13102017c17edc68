"""Executing the notebooks: sources without outputs in, pages out.

    python -m experiments.reports.notebooks             # reports/notebooks/*.ipynb -> *.html

A notebook that fails stops with the cell's own error, and no page of it is written.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm

from experiments.runs.store import ROOT
from freeanchor.files import write_bytes

FOLDER = ROOT / "reports" / "notebooks"
TIMEOUT = 600  # seconds a cell


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run from the project's root in a kernel of this Python."""
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    executed: nbformat.NotebookNode = client.execute()
    return executed


def publish(source: Path) -> Path:
    """Execute a notebook and write its page beside it; the page's path."""
    page, _ = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(execute(source))
    target = source.with_suffix(".html")
    write_bytes(target, page.encode())
    return target


def main(folder: Path = FOLDER) -> int:
    """Publish every notebook of a folder; the exit status."""
    for source in tqdm(sorted(folder.glob("*.ipynb")), desc="notebooks", disable=None):
        try:
            print(publish(source).relative_to(ROOT))
        except CellExecutionError as error:
            print(f"{source.name}: a cell failed: {error.ename}: {error.evalue}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
