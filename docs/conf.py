"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gradient_async  # found by the line above
from gradient_async.client.parameters import described
from gradient_async.types import params

project = "gradient_async"
author = "The gradient_async authors"
copyright = author
version = release = gradient_async.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False
suppress_warnings = ["ref.python"]  # `type` is a builtin, and a field of several messages

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"
add_module_names = False
python_maximum_signature_line_length = 60  # a longer signature has one parameter a line
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"gradient_async {release}"


class Parameters(SphinxDirective):
    """A table of the fields of a class that describes a request, but for those that a second class has too."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table in Markdown; the parser of the page reads it."""
        fields, *others = [described(getattr(params, name)) for name in self.arguments]
        rows = ["| parameter | type | |", "|---|---|---|"]
        for name, kind, text in sorted(set(fields).difference(*others)):
            shown = kind.replace("|", "\\|")
            rows.append(f"| `{name}` | `{shown}` | {' '.join(text.split())} |")
        return self.parse_text_to_nodes("\n".join(rows))


def _signature(*details: Any) -> tuple[str, str] | None:
    """Omit the signatures of classes that only the library constructs."""
    _, _, _, obj, _, _, returns = details
    made_here = isinstance(obj, type) and issubclass(obj, (msgspec.Struct, BaseException))
    return ("", returns) if made_here and not obj.__module__.startswith("gradient_async.config") else None


# Parameters that all methods have, as the first lines of their entries in docstrings.
_COMMON = {
    f"{name} ({kind}): {text.partition(chr(10))[0]}"
    for fields in (params.ChatCompletionCreate, params.AgentCompletionCreate)
    for name, kind, text in described(fields)
}


def _shorten(*details: Any) -> None:
    """Show the parameters that all methods have in the signatures, and describe them once, in the tables of the page."""
    _, _, _, obj, _, lines = details
    if getattr(obj, "__signature__", None) is None:
        return
    kept: list[str] = []
    place, common = 0, False
    for line in lines:
        if not line.startswith(" " * 8):  # otherwise the line continues an entry
            common = line.strip() in _COMMON
        if not common:
            kept.append(line)
        elif not place:
            place = len(kept)
            kept.append(
                "    **params: Parameters of the request, and options for sending it; see :ref:`parameters`."
            )
    lines[:] = kept


def _copy_pictures(app: Sphinx, error: Exception | None) -> None:
    """Copy the pictures that pages show by ``<picture>``: Sphinx copies no files for HTML in a page."""
    if error is None:
        shutil.copytree(app.srcdir / "architecture", app.outdir / "architecture", dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Register the directive and the handlers that the pages need."""
    app.add_directive("parameters", Parameters)
    for module in ("client.completions", "client.raw", "sync.client"):
        # Their methods have one signature with every parameter, see `spelled_out`; overloads have only `**params`.
        analyzer = ModuleAnalyzer.for_module(f"gradient_async.{module}")
        analyzer.analyze()
        analyzer.overloads.clear()
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _shorten, priority=400)  # before napoleon reads it
    app.connect("build-finished", _copy_pictures)
