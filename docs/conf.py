"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
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


class Parameters(SphinxDirective):
    """A list of the fields of a class that describes a request, but for those that a second class has too."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the list in Markdown; the parser of the page reads it."""
        fields, *others = [described(getattr(params, name)) for name in self.arguments]
        lines = [
            line
            for name, kind, text in sorted(set(fields).difference(*others))
            for line in (f"`{name}`: `{kind}`", f": {' '.join(text.split())}", "")
        ]
        place = nodes.target(ids=[f"gradient_async.{self.arguments[0]}"])
        self.state.document.note_explicit_target(place)
        self.env.get_domain("py").note_object(place["ids"][0], "class", place["ids"][0])  # docstrings name it
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


def _follow_theme(app: Sphinx, page: nodes.document) -> None:
    """Make pictures follow the switch of the theme: drawings as a part of their page, others as an image for each theme."""
    if app.builder.format != "html":
        return
    for image in list(page.findall(nodes.image)):
        dark_uri = re.sub(r"(-light)?(\.\w+)$", r"-dark\2", image["uri"])
        name, path = app.env.relfn2path(image["uri"], app.env.docname)
        if Path(path).with_name(Path(dark_uri).name).exists():
            dark = image.deepcopy()
            dark["uri"] = dark_uri
            image["classes"].append("only-light")
            dark["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, dark)
        elif image["uri"].endswith(".svg"):
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


# Names that annotations have without their modules, because they are imported for type checkers only.
_ELSEWHERE = {"ClientSession": "aiohttp.ClientSession"}


def _find_public_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """Link the names of the package in docstrings, which name a class as users do, wherever it is defined."""
    target = node["reftarget"] = _ELSEWHERE.get(node["reftarget"], node["reftarget"])
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
        lines[:0] = ["..", ""]  # an empty comment


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
    for module in ("client.completions", "client.raw", "sync.client"):
        # Their methods have one signature with every parameter, see `spelled_out`; overloads have only `**params`.
        analyzer = ModuleAnalyzer.for_module(f"gradient_async.{module}")
        analyzer.analyze()
        analyzer.overloads.clear()
    app.connect("autodoc-process-docstring", _shorten, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _keep_first_line, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _tidy, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _find_public_name, priority=400)  # before intersphinx
    app.connect("doctree-read", _follow_theme, priority=400)  # before Sphinx collects images
    app.connect("doctree-read", _mark_short_names)
    app.connect("build-finished", _write_llms)
