"""Writes the notebooks, with their stored outputs, as Markdown pages: `python -m notebooks.pages FOLDER`."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def write_pages(folder: Path) -> list[Path]:
    """Write a page for each notebook, and the images of its outputs; return the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        page = folder / f"{notebook.stem}.md"
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        page.write_text("\n\n".join(_blocks(cells, page)) + "\n", "utf-8")
        pages.append(page)
    return pages


def _blocks(cells: list[dict[str, Any]], page: Path) -> Iterator[str]:
    for number, cell in enumerate(cells):
        source = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            yield re.sub(r"(\]\([\w./-]+)\.ipynb\)", r"\1.md)", source).replace("](../docs/", "](../")
        else:
            yield _fence(source, "python")
            for index, output in enumerate(cell["outputs"]):
                yield _output(output, page, f"{page.stem}-{number}-{index}.png")


def _output(output: dict[str, Any], page: Path, image: str) -> str:
    """Return an output in its richest form that Markdown can show."""
    if output["output_type"] == "stream":
        return _fence(_text(output["text"]), "text")
    if output["output_type"] == "error":
        return _fence("\n".join(output["traceback"]), "text")
    data = output["data"]
    if "image/png" in data:
        (page.parent / image).write_bytes(base64.b64decode(_text(data["image/png"])))
        return f"![Output of the cell above]({image})"
    return _text(data["text/markdown"]) if "text/markdown" in data else _fence(_text(data["text/plain"]), "text")


def _fence(text: str, language: str) -> str:
    return f"````{language}\n{_ANSI.sub('', text).rstrip()}\n````"


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
