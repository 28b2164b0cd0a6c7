"""Makes notebooks from their text: python notebooks/build.py [NN ...]; for a class: --student FOLDER

text/NN_name.py is what people edit and review; NN_name.ipynb is made from it, executed, with its outputs. The hash of the text is
kept in the notebook, so that a test sees without executing anything whether the two belong together.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
SETTINGS = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = SETTINGS["project"].get("urls", {}).get("Repository", "")
INSTALL = """# Where the package is missing, as on Colab.
from importlib.util import find_spec

if find_spec("tinyfcn") is None:
    %pip install -q "tinyfcn[notebooks] @ git+{}"
"""
# nbgrader keeps what stands around these lines; what stands between them it replaces by a stub of its own.
UNSOLVED = r"\1### BEGIN SOLUTION\n\1raise NotImplementedError\n\1### END SOLUTION"


def text_hash(text: Path) -> str:
    """Of the characters, so that it is the same where lines end otherwise."""
    return hashlib.sha256(text.read_text(encoding="utf-8").encode()).hexdigest()


def notebook_path(text: Path) -> Path:
    return FOLDER / f"{text.stem}.ipynb"


def is_current(text: Path) -> bool:
    """Whether the notebook was made from the text as it is."""
    path = notebook_path(text)
    return path.exists() and nbformat.read(path, as_version=4).metadata.get("text_sha256") == text_hash(text)


def complaint(cell: nbformat.NotebookNode) -> str | None:
    """The first line of what a cell wrote to stderr, warnings among it: none of that belongs into a lesson."""
    lines = "".join(output.text for output in cell.outputs if output.get("name") == "stderr").strip().splitlines()
    return f"stderr: {lines[0]}" if lines else None


def execute(notebook: nbformat.NotebookNode) -> str | None:
    """Run the cells in a fresh kernel; what went wrong first, if anything did."""
    quiet = ["--log-level=ERROR"]
    resources = {"metadata": {"path": FOLDER}}
    client = NotebookClient(notebook, timeout=300, record_timing=False, extra_arguments=quiet, resources=resources)
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            try:
                client.execute_cell(cell, number)
            except CellExecutionError as error:
                wrong = f"{error.ename}: {error.evalue}"
            except (CellTimeoutError, DeadKernelError) as error:
                wrong = str(error)
            else:
                wrong = complaint(cell)
            if wrong:
                first_line = cell.source.strip().partition("\n")[0]
                return f"cell {number + 1} ({first_line}): {' '.join(wrong.split())}"
    return None


def make(text: Path) -> nbformat.NotebookNode:
    """The notebook, not yet executed, with nothing in it that differs from one machine or day to the next."""
    notebook = jupytext.read(text)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "text_sha256": text_hash(text)}
    notebook.metadata = nbformat.from_dict(metadata)
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number + 1}"
        tags = cell.metadata.get("tags", [])
        folded = {"source_hidden": "hide-input" in tags, "outputs_hidden": "hide-output" in tags}
        if any(folded.values()):  # the site folds by the tags, JupyterLab by this
            cell.metadata["jupyter"] = {name: True for name, hidden in folded.items() if hidden}
        if alternative := cell.metadata.pop("alt", None):  # for those who don't see the figure: where the site looks for it
            cell.metadata["mystnb"] = {"image": {"alt": alternative}}
    if REPOSITORY:
        install = nbformat.v4.new_code_cell(INSTALL.format(REPOSITORY).strip(), id="install", metadata={"tags": ["hide-input"]})
        notebook.cells.insert(1, install)
    return notebook


def student_copy(text: Path) -> nbformat.NotebookNode:
    """The notebook without solutions and outputs; nbgrader reads in its cells' metadata what is answered and what is graded."""
    notebook = make(text)
    del notebook.metadata["text_sha256"]
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("<details><summary>Solution</summary>")]
    for cell in notebook.cells:
        answer, check = (tag in cell.metadata.get("tags", []) for tag in ("exercise", "check"))
        if answer:
            name = re.findall(r"^def (\w+)", cell.source, flags=re.MULTILINE)[-1]
            cell.source = re.sub(r"^( +)raise NotImplementedError$", UNSOLVED, cell.source, flags=re.MULTILINE)
        if answer or check:
            role = {"solution": answer, "grade": check, "locked": check, "task": False, "schema_version": 3}
            graded = {"grade_id": f"{name}-check", "points": 1} if check else {"grade_id": name}
            cell.metadata["nbgrader"] = role | graded
    return notebook


def write_student_copies(texts: list[Path], folder: Path) -> None:
    """The notebooks' student copies, into a folder that is new or empty."""
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"error: {folder} is not empty; name a folder that is new")
    folder.mkdir(parents=True, exist_ok=True)
    for text in texts:
        nbformat.write(student_copy(text), folder / f"{text.stem}.ipynb")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make notebooks from their text, and execute them.")
    parser.add_argument("number", nargs="*", help="notebooks to make, as 07; without any, all whose text has changed")
    parser.add_argument("--all", action="store_true", help="all notebooks, for when the package has changed")
    parser.add_argument("--check", action="store_true", help="execute, all if no number is given, and write nothing")
    parser.add_argument("--student", type=Path, metavar="FOLDER", help="write copies without solutions and outputs there instead")
    arguments = parser.parse_args()

    texts = sorted(FOLDER.glob("text/*.py"))
    if arguments.number:
        texts = [text for text in texts if text.name[:2] in arguments.number]
        if missing := set(arguments.number) - {text.name[:2] for text in texts}:
            sys.exit(f"no notebook {', '.join(sorted(missing))} in {FOLDER / 'text'}")
    elif not (arguments.all or arguments.check or arguments.student):
        texts = [text for text in texts if not is_current(text)]

    if arguments.student:
        write_student_copies(texts, arguments.student)
        return
    os.environ["PYTHONWARNINGS"] = "default"  # also those that Python keeps from people by default
    if arguments.check:  # nobody sees the times that they measure, so that each may have one core
        os.environ |= {"TINYFCN_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def run(text: Path) -> tuple[nbformat.NotebookNode, str | None, float]:
        notebook, start = make(text), time.perf_counter()
        wrong = execute(notebook)
        return notebook, wrong, time.perf_counter() - start

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(run, texts) if arguments.check else map(run, texts)
        for text, (notebook, wrong, seconds) in zip(texts, made, strict=True):
            if wrong:
                sys.exit(f"{text.stem}: {wrong}")
            if not arguments.check:
                nbformat.write(notebook, notebook_path(text))
            print(f"{text.stem}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
