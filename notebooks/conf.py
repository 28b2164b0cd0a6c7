"""The notebooks and the package's docstrings as a site that needs no network: `sphinx-build -W notebooks site`."""

import re
import tomllib
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
nb_code_prompt_show, nb_code_prompt_hide = "Show the {type}", "Hide the {type}"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = methodcaller("replace", " ", "-")  # as Jupyter and GitHub make a heading's anchor

copybutton_selector = "div:not(.output) > div.highlight > pre"  # of code, not of what it prints

html_theme = "sphinx_book_theme"
settings = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))
repository = settings["project"].get("urls", {}).get("Repository", "")
launch_buttons = {
    "binderhub_url": "https://mybinder.org",
    "colab_url": "https://colab.research.google.com",
    "notebook_interface": "jupyterlab",
}
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the sidebar has a search box already
    "repository_url": repository,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_repository_button": bool(repository),
    "repository_branch": "main",
    "path_to_docs": "notebooks",
    "launch_buttons": launch_buttons if repository else {},
}
html_show_sourcelink = html_copy_source = html_use_index = html_domain_indices = False

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


def plain_names(_app: Sphinx, *_what: object) -> tuple[str, str] | None:
    """Signatures name a type by its name."""
    signature, returned = (text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in _what[-2:])
    return signature, returned


def add_index(app: Sphinx, error: Exception | None) -> None:
    """A server shows index.html when it is asked for a folder."""
    if error is None:
        copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    # Where pages are files, a page can't read others, and asking is an error: results come without excerpts.
    app.add_js_file(None, body="if (location.protocol == 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false")
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", as_text)
    app.connect("autodoc-process-signature", plain_names)
    app.connect("build-finished", add_index)
