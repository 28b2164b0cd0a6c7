"""The notebooks: text and notebook belong together, links lead somewhere, and exercises take right answers and no others.

Nothing here executes a notebook; `python notebooks/build.py --check` does. What needs IPython skips where it is not installed.
"""

import functools
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
TEXTS = sorted(FOLDER.glob("text/*.py"))
BYTES = 1_500_000
ABSOLUTE = re.compile(r"(?<![\w.:/~])/(home|root|work|tmp|opt|usr|mnt|Users)/|\b[A-Z]:\\")
LINK = re.compile(r"\[[^]]*\]\(([^()\s]*(?:\([^()\s]*\))?[^()\s]*)\)")
PAGES = sorted(FOLDER.glob("*.md"))
TAGS = {"setup", "exercise", "check", "hide-input", "hide-output"}


class Cell(NamedTuple):
    kind: str
    tags: list[str]
    source: str


def cells_of(text: Path) -> list[Cell]:
    """The percent format read independently of jupytext: a cell is what lies between two lines that begin with `# %%`."""
    cells = []
    _, *parts = re.split(r"^# %%", text.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for part in parts:
        head, _, body = part.partition("\n")
        tags = re.search(r"tags=(\[.*?\])", head)
        markdown = "[markdown]" in head
        source = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if markdown else body
        cells.append(Cell("markdown" if markdown else "code", json.loads(tags[1]) if tags else [], source.strip("\n")))
    return cells


def path_of(text: Path) -> Path:
    return FOLDER / f"{text.stem}.ipynb"


def notebook_of(text: Path) -> dict:
    return json.loads(path_of(text).read_text(encoding="utf-8"))


def exercises(text: Path) -> list[int]:
    return [index for index, cell in enumerate(cells_of(text)) if "exercise" in cell.tags]


def name_of(stub: Cell) -> str:
    return re.findall(r"^def (\w+)", stub.source, flags=re.MULTILINE)[-1]


def solution_of(cell: Cell) -> str:
    details = re.fullmatch(r"<details><summary>Solution</summary>\n\n(.*)\n</details>", cell.source.strip(), flags=re.DOTALL)
    assert details, "a solution stands in <details><summary>Solution</summary>, after an empty line"
    (code,) = re.findall(r"^```python\n(.*?)^```$", details[1], flags=re.DOTALL | re.MULTILINE)
    return code


def anchors_of(path: Path) -> set[str]:
    """What Jupyter and GitHub call a notebook's headings."""
    pages = [cell.source for cell in cells_of(FOLDER / "text" / f"{path.stem}.py") if cell.kind == "markdown"]
    headings = re.findall(r"^#+ (.*)$", "\n".join(pages), flags=re.MULTILINE)
    return {re.sub(r"[`*]", "", heading).strip().replace(" ", "-") for heading in headings}


def dead_links(markdown: str) -> list[str]:
    """Links to anything but the web, a picture, or a page that is there, or a heading that it has: no others work on the site."""
    markdown = re.sub(r"^```.*?^```$|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    dead = []
    for link in LINK.findall(markdown):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = FOLDER / unquote(name)
        here = target.parent == FOLDER and target.suffix in ((".ipynb",) if anchor else (".ipynb", ".md"))
        found = target.exists() and (here or target.suffix == ".jpg")
        if not found or (anchor and unquote(anchor) not in anchors_of(target)):
            dead.append(link)
    return dead


notebooks = pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)


@notebooks
def test_notebook_was_made_from_its_text(text):
    remedy = f"run: python notebooks/build.py {text.name[:2]}"
    assert path_of(text).exists(), remedy
    notebook = notebook_of(text)
    found = hashlib.sha256(text.read_text(encoding="utf-8").encode()).hexdigest()
    assert notebook["metadata"].get("text_sha256") == found, remedy
    cells = [cell for cell in notebook["cells"] if cell["id"] != "install"]
    made = [(c["cell_type"], c["metadata"].get("tags", []), "".join(c["source"])) for c in cells]
    assert made == [tuple(cell) for cell in cells_of(text)], remedy


@notebooks
def test_every_cell_was_executed_in_order_without_a_warning(text):
    code = [cell for cell in notebook_of(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    results = ["".join(output["data"]["text/plain"]) for output in outputs if output["output_type"] == "execute_result"]
    assert not [result for result in results if re.match(r"\[?<matplotlib|\[?Text\(|<Axes", result)], "a plot's value is shown"


@notebooks
def test_notebook_is_small_and_names_no_machine(text):
    path = path_of(text)
    assert path.stat().st_size < BYTES
    for cell in notebook_of(text)["cells"]:
        shown = ["".join(cell["source"])]
        for output in cell.get("outputs", []):
            shown.append("".join(output.get("text", [])))
            shown += ["".join(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
        for words in shown:
            assert not ABSOLUTE.search(words), words


@notebooks
def test_opening_predictions_and_the_way_on(text):
    cells = cells_of(text)
    pages = [cell.source for cell in cells if cell.kind == "markdown"]
    number = int(text.name[:2])
    assert re.match(rf"# {number}\. \S", cells[0].source), f"the first cell opens with '# {number}. Title'"
    assert re.search(r"Takes about \d+ minutes", "".join(pages[:3]))
    assert sum(page.count("**Predict.**") for page in pages) >= 2
    assert {tag for cell in cells for tag in cell.tags} <= TAGS
    if following := list(FOLDER.glob(f"text/{number + 1:02}_*.py")):
        assert f"]({following[0].stem}.ipynb)" in cells[-1].source, f"the last cell links to {following[0].stem}.ipynb"


@notebooks
def test_notebook_opens_with_a_picture_and_was_told_with_real_weights(text):
    cells = notebook_of(text)["cells"]
    assert any("image/png" in output.get("data", {}) for cell in cells[:5] for output in cell.get("outputs", []))
    printed = ["".join(output.get("text", [])) for cell in cells for output in cell.get("outputs", [])]
    assert not [line for line in printed if "stand in" in line], "executed without VGG16's weights: name them in TINYFCN_VGG16"


@notebooks
def test_an_answer_is_folded_until_somebody_asks(text):
    cells = cells_of(text)
    for index, cell in enumerate(cells):
        if cell.kind == "markdown" and "**Predict.**" in cell.source:
            after = cell.source.rpartition("**Predict.**")[2]
            answer = cells[index + 1]
            folded = "hide-output" in answer.tags if answer.kind == "code" else answer.source.startswith("<details>")
            assert folded or "<details>" in after, f"cell {index + 1} asks, and the next one tells"
            assert "\n#" not in after, f"cell {index + 1} goes on after its question"


@notebooks
def test_code_is_narrow_and_imports_and_plots_are_folded(text):
    for cell in cells_of(text):
        if cell.kind == "code":
            assert max(map(len, cell.source.splitlines())) <= 100, cell.source
            folds = re.search(r"\bplt\.|^from tinyfcn\.lesson", cell.source, re.MULTILINE)
            assert "hide-input" in cell.tags or not folds, cell.source
        if "### Exercise" in cell.source:
            assert re.findall(r"<summary>Hint (\d)</summary>", cell.source) == ["1", "2"], cell.source


@notebooks
def test_links_of_a_notebook(text):
    assert not dead_links("\n\n".join(cell.source for cell in cells_of(text) if cell.kind == "markdown"))


@notebooks
def test_a_figure_has_words_before_or_after_it(text):
    cells = notebook_of(text)["cells"]
    kinds = [cell["cell_type"] for cell in cells]
    for index, cell in enumerate(cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert "markdown" in kinds[max(index - 2, 0) : index + 3], f"cell {index + 1} shows a figure far from any words"
            assert "mystnb" in cell["metadata"], f'cell {index + 1} shows a figure: say in alt="..." what one sees'
        for alternative in re.findall(r"!\[(.*?)\]\(", "".join(cell["source"]) if kinds[index] == "markdown" else ""):
            assert alternative, f"cell {index + 1}: an image without alternative text"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page(page):
    words = page.read_text(encoding="utf-8")
    assert not dead_links(words)
    assert page.name == "README.md" or f"]({page.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page.name == "glossary.md" or not [text.stem for text in TEXTS if f"]({text.stem}.ipynb)" not in words]


def test_index_says_how_long_each_route_takes():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = []
    for route in re.findall(r"^\*\*(?:The core|Electives), .*?(?=^\*\*|^#|\Z)", index, flags=re.MULTILINE | re.DOTALL):
        hours, minutes = re.search(r", (\d+) h(?: (\d+) min)?\*\*", route).groups(default="0")
        rows = re.findall(r"\((\w+)\.ipynb\) \|.*\| (\d+) \|$", route, flags=re.MULTILINE)
        for stem, number in rows:
            assert f"Takes about {number} minutes" in (FOLDER / "text" / f"{stem}.py").read_text(encoding="utf-8")
        assert sum(int(number) for _, number in rows) == 60 * int(hours) + int(minutes)
        listed += [stem for stem, _ in rows]
    assert sorted(listed) == [text.stem for text in TEXTS]


@notebooks
def test_exercises_are_four_cells(text):
    cells, stubs = cells_of(text), exercises(text)
    assert 3 <= len(stubs) <= 6
    names = [name_of(cells[index]) for index in stubs]
    assert len(set(names)) == len(names)
    for count, index in enumerate(stubs, start=1):
        task, stub, check, solution = cells[index - 1 : index + 3]
        assert task.kind == "markdown" and f"\n### Exercise {count}: " in f"\n{task.source}"
        assert stub.source.rstrip().endswith("raise NotImplementedError") and '"""' in stub.source
        assert check.tags == ["check"] and "with attempt()" in check.source
        assert f"def {name_of(stub)}(" in solution_of(solution)
    assert sum("check" in cell.tags for cell in cells) == len(stubs)
    wrong = runpy.run_path(str(ROOT / "tests" / "notebooks" / f"wrong_{text.name[:2]}.py"))["WRONG"]
    assert set(wrong) == set(names)


@functools.cache
def after_setup(text: Path) -> dict:
    """What the notebook's setup cells define: all that a check may use."""
    names: dict = {"__name__": "__main__"}
    for cell in cells_of(text):
        if "setup" in cell.tags:
            exec(cell.source, names)
    return names


@pytest.fixture
def lesson(monkeypatch, tmp_path):
    """The notebooks' helpers, in a folder that has nothing else."""
    pytest.importorskip("IPython")
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context({"backend": "agg"}):
        yield pytest.importorskip("tinyfcn.lesson")


EACH = [pytest.param(text, index, id=f"{text.stem}-{k}") for text in TEXTS for k, index in enumerate(exercises(text), start=1)]


@pytest.mark.parametrize("text, index", EACH)
def test_exercise_takes_the_solution_and_nothing_else(text, index, lesson, capsys):
    stub, check, solution = cells_of(text)[index : index + 3]
    wrong = runpy.run_path(str(ROOT / "tests" / "notebooks" / f"wrong_{text.name[:2]}.py"))["WRONG"]

    def passes(answer: str) -> bool:
        names = dict(after_setup(text))
        exec(answer, names)
        exec(check.source, names)
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith(tuple(lesson.STATES))
        return said == "Right!"

    assert not passes(stub.source), "the check passes before anything is written"
    assert passes(solution_of(solution)), "the solution does not pass"
    for number, answer in enumerate(wrong[name_of(stub)], start=1):
        assert not passes(answer), f"wrong answer {number} passes"


@pytest.mark.parametrize(
    "answer, cause",
    [
        (lambda right: right / 4, "which is N or 1 / N: averaged twice"),
        (lambda right: -right, "a sign?"),
        (lambda right: right.T, "are two axes swapped?"),
        (lambda right: right[:3].T, "transposed"),
        (lambda right: right[::-1, ::-1], "turned round"),
        (lambda right: np.minimum(right, 10), "overwritten that should be added to"),
        (lambda right: right / 0, "not finite"),
        (lambda right: None, "`return` missing"),
    ],
)
def test_a_check_suggests_what_went_wrong(answer, cause, lesson):
    right = np.arange(1.0, 13).reshape(4, 3)
    lesson.expect(right + 1e-9, right, "dx")
    compared_with = right[:3] if cause == "transposed" else right
    with pytest.raises(AssertionError, match=re.escape(cause)), np.errstate(all="ignore"):
        lesson.expect(answer(right), compared_with, "dx", N=4)


def test_without_a_file_random_convolutions_see_in_place_of_vgg16s(lesson, capsys):
    net = lesson.vgg16("no such file")
    assert "stand in" in capsys.readouterr().out
    maps = lesson.see(net, lesson.photograph()[:40, :50], last="pool2")
    assert list(maps) == ["conv1_1", "conv1_2", "pool1", "conv2_1", "conv2_2", "pool2"]
    assert maps["pool2"].shape == (128, 10, 13) and maps["pool2"].std() > 0


def python(code: str, folder: Path, package: Path) -> subprocess.CompletedProcess:
    """Run code in a folder, with the package that lies in another one."""
    environment = os.environ | {"PYTHONPATH": str(package)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def test_notebooks_refuse_another_installation_than_the_one_beside_them(tmp_path, lesson):
    for folder in tmp_path / "tinyfcn", tmp_path / "notebooks":
        folder.mkdir()
    (tmp_path / "tinyfcn" / "__init__.py").touch()
    failed = python("import tinyfcn.lesson", tmp_path / "notebooks", ROOT)
    assert failed.stderr.splitlines()[-1].startswith("ImportError: these notebooks belong to ")
    assert f'run pip install -e ".[notebooks]" in {tmp_path}' in failed.stderr


def test_an_installed_package_has_what_notebooks_show(tmp_path, lesson):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    (tmp_path / "alone").mkdir()
    for source, target in {"tinyfcn": "tinyfcn", **wheel["force-include"]}.items():
        shutil.copytree(ROOT / source, tmp_path / "installed" / target, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from tinyfcn.lesson import *; print(DATA, photograph().shape, recorded('bench-cpu')['machine'])"
    shown = python(code, tmp_path / "alone", tmp_path / "installed")
    assert shown.stdout.startswith(f"{tmp_path / 'installed' / 'tinyfcn' / 'data'} (300, 451, 3)"), shown.stderr


@pytest.mark.parametrize("repository", ["", "https://github.com/someone/fcn"])
def test_notebooks_install_the_package_once_it_has_an_address(repository, monkeypatch):
    pytest.importorskip("jupytext")
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    build = pytest.importorskip("build")
    monkeypatch.setattr(build, "REPOSITORY", repository)
    installs = [cell.source for cell in build.make(TEXTS[0]).cells if "%pip install" in cell.source]
    assert [re.search(r"git\+(\S+)\"", source)[1] for source in installs] == ([repository] if repository else [])


def build(*arguments) -> None:
    subprocess.run([sys.executable, FOLDER / "build.py", *arguments], check=True, timeout=300)


def test_student_copies_hold_no_solution_and_say_what_is_graded(tmp_path):
    pytest.importorskip("jupytext")
    build("--student", tmp_path / "class")
    for text in TEXTS:
        notebook = json.loads((tmp_path / "class" / f"{text.stem}.ipynb").read_text(encoding="utf-8"))
        words = "".join("".join(cell["source"]) for cell in notebook["cells"])
        assert "<summary>Solution" not in words and "../" not in words
        assert not any(cell.get("outputs") for cell in notebook["cells"])
        graded = [cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
        names = [name_of(cells_of(text)[index]) for index in exercises(text)]
        ids = [cell["metadata"]["nbgrader"]["grade_id"] for cell in graded]
        assert ids == [grade_id for name in names for grade_id in (name, f"{name}-check")]
        for cell, grade_id in zip(graded, ids, strict=True):
            role, check = cell["metadata"]["nbgrader"], grade_id.endswith("-check")
            flags = {name: role[name] for name in ("solution", "grade", "locked", "task", "schema_version")}
            assert flags == {"solution": not check, "grade": check, "locked": check, "task": False, "schema_version": 3}
            assert role.get("points") == (1 if check else None) and re.fullmatch(r"[\w-]+", grade_id)
            source = "".join(cell["source"])
            part = r"with attempt\(\)" if check else r"BEGIN SOLUTION\n +raise NotImplementedError\n +### END SOLUTION$"
            assert re.search(part, source)


def test_progress_reads_what_the_checks_printed(tmp_path, capsys, lesson):
    notebook = notebook_of(TEXTS[0])
    first = next(cell for cell in notebook["cells"] if "check" in cell["metadata"].get("tags", []))
    first["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["Right!\n"]}]
    (tmp_path / path_of(TEXTS[0]).name).write_text(json.dumps(notebook), encoding="utf-8")
    lesson.progress(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"  \[x\] count +right", printed[1]) and re.fullmatch(r"  \[ \] mean IU +not solved yet", printed[2])
    assert printed[-1] == "1 of 3 exercises are solved"


def test_nbgrader_grades_a_notebook(tmp_path, monkeypatch):
    """From the student copy to the points: a right answer, a wrong one, and two that nobody gave."""
    pytest.importorskip("nbgrader")
    from nbgrader.api import Gradebook

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # nbgrader calls alembic

    def nbgrader(*arguments):
        done = subprocess.run([sys.executable, "-m", "nbgrader", *arguments], capture_output=True, text=True)
        assert not done.returncode, done.stderr

    text = TEXTS[2]
    stubs = [cells_of(text)[index] for index in exercises(text)]
    right = solution_of(cells_of(text)[exercises(text)[0] + 2])
    wrong = runpy.run_path(str(ROOT / "tests" / "notebooks" / f"wrong_{text.name[:2]}.py"))["WRONG"][name_of(stubs[1])][0]
    build(text.name[:2], "--student", tmp_path / "source" / "fcn")
    nbgrader("generate_assignment", "fcn")
    submitted = tmp_path / "submitted" / "ada" / "fcn"
    shutil.copytree(tmp_path / "release" / "fcn", submitted)
    notebook = json.loads((submitted / f"{text.stem}.ipynb").read_text(encoding="utf-8"))
    answers = dict(zip((name_of(stub) for stub in stubs), (right, wrong), strict=False))
    for cell in notebook["cells"]:
        if answer := answers.get(cell["metadata"].get("nbgrader", {}).get("grade_id")):
            cell["source"] = answer
    (submitted / f"{text.stem}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    nbgrader("autograde", "fcn", "--create", "--Execute.timeout=300")
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as book:
        grades = {grade.name: grade.auto_score for grade in book.find_submission_notebook(text.stem, "fcn", "ada").grades}
    assert grades == {f"{name_of(stub)}-check": float(count == 0) for count, stub in enumerate(stubs)}
