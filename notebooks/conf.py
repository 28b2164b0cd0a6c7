"""The notebooks and the package's docstrings as a site that needs no network: `sphinx-build -W notebooks site`."""

import re
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from shutil import copyfile

from sphinx.application import Sphinx

project = html_title = "tinyfcn"
author = "the authors of tinyfcn"
root_doc = "README"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Array": "Array"}
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
nb_execution_mode = "off"  # the pages show the outputs that the notebooks hold
nb_render_markdown_format = "myst"  # tables in outputs
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = methodcaller("replace", " ", "-")  # as Jupyter and GitHub make a heading's anchor

copybutton_selector = "div:not(.output) > div.highlight > pre"  # of code, not of what it prints

html_theme = "sphinx_book_theme"
repository = ""  # the public repository's address, once there is one: each page then links to it
html_theme_options = {
    "home_page_in_toc": True,
    "repository_url": repository,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_repository_button": bool(repository),
}
html_show_sourcelink = html_copy_source = False

# MathJax in one file, which draws its glyphs itself. The package it comes from is an extension too, which would copy 24 MB.
mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg.js"
mathjax_path = mathjax.name
html_static_path = ["site.css", str(mathjax)]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """The sidebar's list stands here, since README.md is also read where nobody knows what a toctree is."""
    if page == root_doc:
        for pages in ":glob:\n\n[0-9]*", ":caption: Beside them\n\nglossary\nmisconceptions\nteaching\napi":
            source[0] += f"\n```{{toctree}}\n:hidden:\n{pages}\n```\n"


def as_text(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Docstrings are plain text: `names` in backticks, and what is indented stands as it is written."""
    shown: list[str] = []
    for line in lines:
        indented = line.startswith("    ") or "   " in line.strip()  # a formula, a table
        if indented != bool(shown and shown[-1].startswith("    ")) and line:
            shown += ["", "::", ""] if indented else [""]
        if indented:
            shown.append("    " + line)
        else:
            pieces = re.split(r"`([^`]+)`", line)
            pieces[::2] = (re.sub(r"([*_|\\])", r"\\\1", piece) for piece in pieces[::2])
            pieces[1::2] = (f"``{piece}``" for piece in pieces[1::2])
            shown.append("".join(pieces))
    lines[:] = shown


def add_index(app: Sphinx, error: Exception | None) -> None:
    """A server shows index.html when it is asked for a folder."""
    if error is None:
        copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", as_text)
    app.connect("build-finished", add_index)
