"""Runs a notebook from top to bottom in a new kernel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
LIMIT = 600
"""Maximum seconds for a cell."""


def find(names: list[str]) -> list[Path]:
    """Return the notebooks with these names (with or without suffix), or all, in order."""
    if not names:
        return sorted(FOLDER.glob("*.ipynb"))
    paths = [FOLDER / f"{Path(name).stem}.ipynb" for name in names]
    for path in paths:
        if not path.exists():
            raise SystemExit(f"There is no notebook {path.stem}.")
    return paths


def read(path: Path) -> NotebookNode:
    """Read a notebook as stored."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def execute(path: Path, environment: Mapping[str, str] = os.environ) -> NotebookNode:
    """Run a notebook in its folder; return it with new outputs, without metadata that differs from run to run.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = read(path)
    client = NotebookClient(
        notebook,
        kernel_manager_class=_KernelManager,
        extra_arguments=["--log-level=ERROR"],  # otherwise each kernel warns that it listens on a socket
        timeout=LIMIT,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=dict(environment))
    return _clean(notebook)


class _ThisPython(KernelSpecManager):
    """Only knows this interpreter's kernel, whatever others are installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir="", **get_kernel_dict())


class _KernelManager(AsyncKernelManager):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, kernel_spec_manager=_ThisPython())


def _clean(notebook: NotebookNode) -> NotebookNode:
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook to its file."""
    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
