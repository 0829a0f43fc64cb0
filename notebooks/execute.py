"""Runs a notebook from top to bottom in a new kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from tir_qwen.testing import play

FOLDER = Path(__file__).parent
LIMIT = 600
"""Maximum seconds for a cell."""
PACE = 40.0
"""Tokens per second of recorded answers, as a real model may write them."""
_OVERWRITTEN = re.compile(r".*\r(?=[^\n])")  # by a progress bar, for example
_CREDENTIALS = ("E2E_TIR_ACCESS_TOKEN", "E2E_TIR_PROJECT_ID", "E2E_TIR_BASE_URL")


def find(names: list[str]) -> list[Path]:
    """Return the notebooks with these names (with or without suffix), or all, in order."""
    if not names:
        return sorted(FOLDER.glob("*.ipynb"))
    paths = [FOLDER / f"{Path(name).stem}.ipynb" for name in names]
    for path in paths:
        if not path.exists():
            raise SystemExit(f"There is no notebook {path.stem}.")
    return paths


def recording_of(path: Path) -> Path:
    """Return the file with a notebook's recorded exchanges."""
    return path.parent / "exchanges" / f"{path.stem}.json"


def is_live() -> bool:
    """Whether the environment names an endpoint."""
    return any(os.environ.get(variable) for variable in _CREDENTIALS)


@contextmanager
def environment_for(path: Path) -> Iterator[Mapping[str, str]]:
    """Yield the environment to run a notebook in: this one if it names an endpoint, else that of its recording.

    Raises:
        AssertionError: (at the end) The notebook has sent a request that is not recorded.
    """
    if is_live():
        yield os.environ
        return
    with play(recording_of(path), tokens_per_second=PACE) as endpoint:
        yield {**os.environ, **endpoint.environment}


def read(path: Path) -> NotebookNode:
    """Read a notebook as stored."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def execute(path: Path, environment: Mapping[str, str] = os.environ) -> NotebookNode:
    """Run a notebook in its folder; return it with new outputs, without metadata that differs from run to run.

    Cells with the tag `skip-execution`, which install packages, are left out.

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
        if "outputs" in cell:
            cell.outputs = _join_streams(cell.outputs)
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}
    return notebook


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join printed text that follows each other, since the kernel divides it differently in each run."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = _OVERWRITTEN.sub("", output.text)
    return joined


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook to its file."""
    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
