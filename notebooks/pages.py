"""Writes the pages of the site, docs/ and the notebooks with their stored outputs: `python -m notebooks.pages FOLDER`.

In the repository, the pages of docs/ link to the notebooks themselves, so that the links work there, too.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
_IN_THE_REPOSITORY = re.compile(r"^> This page .+\n\n", re.MULTILINE)
"""What a page says to those who read its source."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def write_pages(folder: Path) -> list[Path]:
    """Write the pages and images of the site into a new folder; return the pages."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("upstream"))
    for page in folder.rglob("*.md"):
        text = re.sub(r"\]\(\.\./(notebooks/\w+)\.ipynb\)", r"](\1.md)", page.read_text("utf-8"))
        page.write_text(_IN_THE_REPOSITORY.sub("", text), "utf-8")
    (folder / "notebooks").mkdir()
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        page = folder / "notebooks" / f"{notebook.stem}.md"
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        page.write_text("\n\n".join(_blocks(cells, page)) + "\n", "utf-8")
    return sorted(folder.rglob("*.md"))


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
