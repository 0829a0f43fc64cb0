"""Builds the API reference: a page for each public module, an index, and an offline search."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from inspect import Signature, cleandoc, unwrap
from pathlib import Path
from typing import get_type_hints

import pdoc
import pdoc.render
from markupsafe import Markup
from pdoc.doc import Class, Doc, Function, Module, Namespace, Variable
from pdoc.doc_types import empty
from pdoc.render_helpers import format_signature
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tir_qwen import __version__, errors
from tir_qwen._integrations.parameters import ModelSettings

PACKAGES = ("tir_qwen", "langchain_tir_qwen", "llama_index_tir_qwen")
MODULES = (*PACKAGES, *(f"{package}.batches" for package in PACKAGES))
_FOR_FRAMEWORKS = {"class_name", "lc_secrets", "model_config"}
"""Public members that the frameworks call and users do not."""
_ORDER = ("tir_qwen._client.client", "tir_qwen.timeouts", "tir_qwen.types")
_PICTURE = cleandoc(errors.__doc__ or "").split("\n\n")[1]
"""The tree of exceptions, from the docstring of its module."""
_PLAIN = get_type_hints(ModelSettings)  # without the metadata for pydantic
_MODULE = re.compile(r"\b(?!tir_qwen)(?:[a-z_]\w*\.)+(?=[A-Z])")
"""The module path before the name of a framework's class; our own are kept for links."""
_DOT = r'<span class="o">\.</span>'
_MODULE_HTML = re.compile(
    rf'(?<!{_DOT})(?:<span class="n">(?!tir_qwen)[a-z_]\w*</span>{_DOT})+(?=<span class="n">[A-Z])'
)
_SCRIPT = re.compile(r"<script>.*?</script>", re.DOTALL)
_CODE_OR_LINK = re.compile(r"<pre>.*?</pre>|<a [^>]*>.*?</a>", re.DOTALL)
_OURS = re.compile(rf"<code>((?:{'|'.join(PACKAGES)})\.[\w.]+)(?:\(\))?</code>")
_HREF = re.compile(r'<a [^>]*href="([^":#]*)#?([^":]*)"')
_FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//|@import|url\([\"']?https?:")


def build(folder: Path) -> list[str]:
    """Write the pages; return their problems: warnings, broken links, and external resources."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for module in modules():
            module.members = dict(sorted(module.members.items(), key=lambda item: _place(item[1])))
            _show(module)
        pdoc.render.configure(
            docformat="google",
            show_source=False,
            footer_text=f"tir-qwen {__version__}",
            template_directory=Path(__file__).parent,
        )
        pdoc.render.env.filters["format_signature"] = signature
        pdoc.pdoc(*MODULES, output_directory=folder)
    return [f"warning: {one.message}" for one in caught] + list(faults(folder))


def modules() -> list[Module]:
    """Return the modules that have a page, as read by pdoc."""
    return [Module.from_name(name) for name in MODULES]


def members(cls: Class) -> list[Doc]:
    """Return the members to show of a class: public ones from our packages, including bases; methods last."""
    public = [
        member
        for member in cls.members.values()
        if member.taken_from[0].partition(".")[0] in PACKAGES
        and member.name not in _FOR_FRAMEWORKS
        and (not member.name.startswith("_") or (member.name == "__init__" and is_made(cls.obj)))
    ]
    return sorted(public, key=lambda member: (member.name != "__init__", member.kind == "function"))


def is_made(cls: type) -> bool:
    """Whether to show the constructor: not for models, which are constructed from their fields, and not for errors."""
    return not issubclass(cls, (BaseModel, BaseException, dict))


def folded(cls: Class) -> dict[str, list[str]]:
    """Return the public members inherited from frameworks, by class."""
    found = {
        f"{module}.{name}": sorted(
            one.name for one in brought if not one.name.startswith("_") and one.name not in _FOR_FRAMEWORKS
        )
        for (module, name), brought in cls.inherited_members.items()
        if module.startswith(("langchain_core", "llama_index.core"))
    }
    return {name: names for name, names in found.items() if names}


def signature(shown: Signature, colon: bool) -> Markup:
    """Format a signature like pdoc, but without module paths, and with `self` even if the method is wrapped."""
    html = _MODULE_HTML.sub("", format_signature(shown, colon))
    return Markup(html.replace("_self</span>", "self</span>"))  # noqa: S704 - escaped by pdoc


def _place(doc: Doc) -> tuple[int, int]:
    """Return the sort key of a member on its page: clients, then timeouts, then types, each in source order."""
    module = doc.taken_from[0]
    return _ORDER.index(module) if module in _ORDER else len(_ORDER), (doc.source_lines or (0, 0))[0]


def _show(doc: Doc) -> None:
    """Make pdoc show what `members` selects: on a class's page, in its contents and in the search."""
    if hasattr(doc, "shown"):  # from an earlier build: pdoc caches modules
        return
    doc.shown = bool(doc.docstring) or doc.name == "__init__"
    # pdoc adds stars of its own to make `**kwargs: ...` bold.
    doc.docstring = re.sub(r"^( +)\*(\*?)(\w+:)", r"\1\3", doc.docstring, flags=re.MULTILINE)
    if doc.obj is errors.TIRError:
        first, _, rest = doc.docstring.partition("\n\n")
        doc.docstring = f"{first}\n\n{_PICTURE}\n\n{rest}"
    if isinstance(doc, Class):
        doc.own_members, doc.bases, doc.folded = members(doc), [], folded(doc)
    if isinstance(doc, Function):
        doc.obj = unwrap(doc.obj)  # wrapped twice by llama-index-core
    if isinstance(doc, Variable):
        doc.annotation = _PLAIN.get(doc.name, doc.annotation)
        doc.annotation_str = _MODULE.sub("", doc.annotation_str)
        if doc.default_value is PydanticUndefined:
            doc.default_value = empty
    for member in doc.own_members if isinstance(doc, Namespace) else ():
        _show(member)


def faults(folder: Path) -> Iterator[str]:
    """Yield the problems of the pages: our names without an entry, broken links, and external resources."""
    pages = {path: _SCRIPT.sub("", path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}
    ids = {path.resolve(): set(re.findall(r'\bid="([^"]+)"', page)) for path, page in pages.items()}
    for path, page in pages.items():
        where = path.relative_to(folder)
        for name in _OURS.findall(_CODE_OR_LINK.sub("", page)):
            yield f"{where}: {name} is not in the reference"
        for target, anchor in _HREF.findall(page):
            to = (path.parent / target if target else path).resolve()
            if (target or anchor) and (to not in ids or (anchor and anchor not in ids[to])):
                yield f"{where}: the link {target}#{anchor} leads nowhere"
        for fetched in _FETCHED.findall(page):
            yield f"{where}: fetches something: {fetched}"


if __name__ == "__main__":
    sys.exit("\n".join(build(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))) or 0)
