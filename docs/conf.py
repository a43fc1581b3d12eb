"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gradient_async  # found by the line above
from gradient_async.types import params

project = "gradient_async"
author = "The gradient_async authors"
copyright = author
version = release = gradient_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False
suppress_warnings = ["ref.python"]  # `type` is a builtin, and a field of several messages

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Builds have no network, so the names of other projects stand in small inventories beside this file, as plain text.
# A name that is missing there gets no link; add a line for it.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "_inventories/python.inv"),
    "aiohttp": ("https://docs.aiohttp.org/en/stable/", "_inventories/aiohttp.inv"),
    "msgspec": ("https://jcristharif.com/msgspec/", "_inventories/msgspec.inv"),
}
intersphinx_disabled_reftypes = ["std:*"]  # links inside pages are ours

default_role = "py:obj"
add_module_names = False
# A longer signature has one parameter a line, which a phone can show.
python_maximum_signature_line_length = 60
python_display_short_literal_types = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
autodoc_mock_imports = ["ray"]  # too large an installation for the sake of three signatures
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"gradient_async {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _plain(annotation: ast.expr) -> str:
    """Return a parameter's type without its bounds, which are in its description."""

    class Strip(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            self.generic_visit(node)
            if isinstance(node.value, ast.Name) and node.value.id in {"Annotated", "Required"}:
                return node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
            return node

    return ast.unparse(Strip().visit(annotation))


def _fields(name: str) -> list[tuple[str, str, str]]:
    """Return name, type and description of each field of a class, fields of its bases first."""
    source = Path(params.__file__).read_text("utf-8")
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    found: list[tuple[str, str, str]] = []
    node = classes[name]
    if name == "ChatCompletionParams":
        found += [
            field
            for part in ("_Params", "_OfModels", "_Tools", "_Choices", "_Format")
            for field in _fields(part)
        ]
    if name == "AgentCompletionParams":
        found += _fields("_OfAgents") + _fields("_AgentOptions")
    for field, text in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found.append((ast.unparse(field.target), _plain(field.annotation), ast.literal_eval(text.value)))
    return found


class Parameters(SphinxDirective):
    """A list of the fields of one of the classes that describe a request."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the list in Markdown; the parser of the page reads it."""
        lines: list[str] = []
        for field, kind, text in sorted(_fields(self.arguments[0])):
            lines += [f"`{field}`: `{kind}`", f": {' '.join(text.split())}", ""]
        name = self.arguments[0]
        place = nodes.target(ids=[f"gradient_async.{name}"])
        self.state.document.note_explicit_target(place)
        self.env.get_domain("py").note_object(
            f"gradient_async.{name}", "class", place["ids"][0]
        )  # docstrings name it
        return [place, *self.parse_text_to_nodes("\n".join(lines))]


_SHORT = 24  # characters

# The classes that programs construct. All others are constructed by the library, and are shown without a signature.
_CONSTRUCTED = frozenset({
    "Answer", "AsyncGradient", "ChatCompletionStreamState", "ChunkDecoder", "Complete", "CompletionAssembler",
    "EventDecoder", "Gradient", "Journal", "Limits", "OpenTelemetry", "Pace", "PartialJSON", "Quota", "Retry",
    "SharedPace", "Timeout", "Tool",
})  # fmt: skip


def _is_made_here(obj: object) -> bool:
    return isinstance(obj, type) and obj.__name__ not in _CONSTRUCTED and not issubclass(obj, dict)


def _signature(*details: Any) -> tuple[str, str] | None:
    """Omit the signatures of classes that only the library constructs."""
    _, _, _, obj, _, _, returns = details
    return ("", returns) if _is_made_here(obj) else None


def _tidy(*details: Any) -> None:
    """Omit the parameters of such classes, and shorten the names of types."""
    _, _, _, obj, _, lines = details
    text = "\n".join(lines) + "\n"
    if _is_made_here(obj):
        text = re.sub(r"^:(?:param|type) .*\n(?:[ ]+.*\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^:vartype .*$",
        lambda found: re.sub(r"(?<![\w.~])((?:\w+\.)+[A-Z]\w*)", r"~\1", found[0]),
        text,
        flags=re.MULTILINE,
    )
    lines[:] = text.splitlines()


def _inline_pictures(app: Sphinx, page: nodes.document) -> None:
    """Make SVGs a part of their page, so that their colours follow the switch of the theme."""
    if app.builder.format != "html":
        return
    for image in list(page.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            name, path = app.env.relfn2path(image["uri"], app.env.docname)
            app.env.note_dependency(name)
            drawn = Path(path).read_text("utf-8")
            drawn = drawn[drawn.index("<svg") :].strip()
            image.replace_self(nodes.raw("", f'<div class="picture-box">{drawn}</div>', format="html"))


def _mark_short_names(_app: Sphinx, page: nodes.document) -> None:
    """Mark names in tables that fit on one line of a phone, so that the style keeps them whole."""
    for entry in page.findall(nodes.entry):
        for literal in entry.findall(nodes.literal):
            if len(literal.astext()) <= _SHORT:
                literal["classes"].append("short")


def _find_public_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """Link the names of the package in docstrings, which name a class as users do, wherever it is defined."""
    target = node["reftarget"]
    if node.get("refdomain") != "py" or not target.rpartition(".")[2][:1].isupper():
        return None
    node["refspecific"] = True  # search in all modules
    for name in (target, target.rpartition(".")[2]):
        found = env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, text)
        if found is not None:
            return found
    return None


def _keep_first_line(*details: Any) -> None:
    """Keep napoleon from taking the words before a colon in the description of an attribute for its type."""
    _, what, _, _, _, lines = details
    if what in {"attribute", "property"}:
        lines.insert(0, "")


def _write_llms(app: Sphinx, error: Exception | None) -> None:
    """Write ``llms.txt``: the title, the address and the first sentence of each page, in the order of the navigation."""
    if error is not None or app.builder.format != "html":
        return
    index = app.env.get_doctree("index")
    lines = [f"# {project}", "", f"> {_first_sentence(index)}"]
    for tree in index.findall(addnodes.toctree):
        lines += ["", f"## {tree.get('caption') or 'Pages'}", ""]
        lines += [line for _, name in tree["entries"] for line in _describe(app, name)]
    (app.outdir / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")


def _describe(app: Sphinx, name: str) -> list[str]:
    """Return a line for a page, and the lines of the pages below it."""
    page = app.env.get_doctree(name)
    title = app.env.titles[name].astext()
    line = f"- [{title}]({app.builder.get_target_uri(name)}): {_first_sentence(page)}"
    below = app.env.toctree_includes.get(name, ())
    return [line, *(line for each in below for line in _describe(app, each))]


def _first_sentence(page: nodes.document) -> str:
    text = next((" ".join(found.astext().split()) for found in page.findall(nodes.paragraph)), "")
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def setup(app: Sphinx) -> None:
    """Register the directive and the handlers that the pages need."""
    next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Attributes"
    app.add_directive("parameters", Parameters)
    app.connect("autodoc-process-docstring", _keep_first_line, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _tidy, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _find_public_name)
    app.connect("doctree-read", _inline_pictures)
    app.connect("doctree-read", _mark_short_names)
    app.connect("build-finished", _write_llms)
