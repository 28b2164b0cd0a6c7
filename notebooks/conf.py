"""The notebooks as a site that needs no network, mathematics included: `sphinx-build -W notebooks site`."""

from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from shutil import copyfile

from sphinx.application import Sphinx

project = html_title = "tinyfcn"
author = "the authors of tinyfcn"
root_doc = "README"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # the pages show the outputs that the notebooks hold
nb_render_markdown_format = "myst"  # tables in outputs
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = methodcaller("replace", " ", "-")  # as Jupyter and GitHub make a heading's anchor

html_theme = "sphinx_book_theme"
html_theme_options = {"use_download_button": False, "use_fullscreen_button": False, "home_page_in_toc": True}
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
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n[0-9]*\n```\n"


def add_index(app: Sphinx, error: Exception | None) -> None:
    """A server shows index.html when it is asked for a folder."""
    if error is None:
        copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
