"""The notebooks: text and notebook belong together, links lead somewhere, and exercises take right answers and no others.

Nothing here executes a notebook; `python notebooks/build.py --check` does. What needs IPython skips where it is not installed.
"""

import functools
import hashlib
import json
import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
TEXTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
STORIES = ("01", "02", "03", "04", "05", "06", "07", "08", "10", "11")  # open with a picture, and fold what can wait
BYTES = 1_500_000
ABSOLUTE = re.compile(r"(?<![\w.:/~])/(home|root|work|tmp|opt|usr|mnt|Users)/|\b[A-Z]:\\")
LINK = re.compile(r"\[[^]]*\]\(([^()\s]*(?:\([^()\s]*\))?[^()\s]*)\)")
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


def notebook_of(text: Path) -> dict:
    return json.loads(text.with_suffix(".ipynb").read_text(encoding="utf-8"))


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
    pages = [cell.source for cell in cells_of(path.with_suffix(".py")) if cell.kind == "markdown"]
    headings = re.findall(r"^#+ (.*)$", "\n".join(pages), flags=re.MULTILINE)
    return {re.sub(r"[`*]", "", heading).strip().replace(" ", "-") for heading in headings}


def dead_links(markdown: str) -> list[str]:
    """Links to anything but the web, a notebook that is there, or a heading that it has: no others work on the site as well."""
    markdown = re.sub(r"^```.*?^```$|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    dead = []
    for link in LINK.findall(markdown):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = FOLDER / unquote(name)
        found = target.suffix == ".ipynb" and target.parent == FOLDER and target.exists()
        if not found or (anchor and unquote(anchor) not in anchors_of(target)):
            dead.append(link)
    return dead


notebooks = pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
stories = pytest.mark.parametrize("text", [text for text in TEXTS if text.name[:2] in STORIES], ids=lambda text: text.stem)


@notebooks
def test_notebook_was_made_from_its_text(text):
    remedy = f"run: python notebooks/build.py {text.name[:2]}"
    assert text.with_suffix(".ipynb").exists(), remedy
    notebook = notebook_of(text)
    found = hashlib.sha256(text.read_text(encoding="utf-8").encode()).hexdigest()
    assert notebook["metadata"].get("text_sha256") == found, remedy
    made = [(c["cell_type"], c["metadata"].get("tags", []), "".join(c["source"])) for c in notebook["cells"]]
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
    path = text.with_suffix(".ipynb")
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
    if following := list(FOLDER.glob(f"{number + 1:02}_*.py")):
        assert f"]({following[0].stem}.ipynb)" in cells[-1].source, f"the last cell links to {following[0].stem}.ipynb"


@stories
def test_a_story_opens_with_a_picture_and_was_told_with_real_weights(text):
    cells = notebook_of(text)["cells"]
    assert any("image/png" in output.get("data", {}) for cell in cells[:5] for output in cell.get("outputs", []))
    printed = ["".join(output.get("text", [])) for cell in cells for output in cell.get("outputs", [])]
    assert not [line for line in printed if "stand in" in line], "executed without VGG16's weights: name them in TINYFCN_VGG16"


@stories
def test_an_answer_is_folded_until_somebody_asks(text):
    cells = cells_of(text)
    for index, cell in enumerate(cells):
        if cell.kind == "markdown" and "**Predict.**" in cell.source:
            after = cell.source.rpartition("**Predict.**")[2]
            answer = cells[index + 1]
            folded = "hide-output" in answer.tags if answer.kind == "code" else answer.source.startswith("<details>")
            assert folded or "<details>" in after, f"cell {index + 1} asks, and the next one tells"
            assert "\n#" not in after, f"cell {index + 1} goes on after its question"


@stories
def test_code_is_narrow_and_imports_and_plots_are_folded(text):
    for cell in cells_of(text):
        if cell.kind == "code":
            assert max(map(len, cell.source.splitlines())) <= 100, cell.source
            assert "hide-input" in cell.tags or not re.search(r"\bplt\.|^from lesson", cell.source, re.MULTILINE), cell.source
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
        for alternative in re.findall(r"!\[(.*?)\]\(", "".join(cell["source"]) if kinds[index] == "markdown" else ""):
            assert alternative, f"cell {index + 1}: an image without alternative text"


@pytest.mark.skipif(not TEXTS, reason="no notebooks here")
def test_index():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert not dead_links(index)
    for text in TEXTS:
        assert f"]({text.stem}.ipynb)" in index


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
def lesson(monkeypatch):
    """The notebooks' helpers, as a notebook finds them: beside it, with its folder as the current one."""
    pytest.importorskip("IPython")
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    with matplotlib.rc_context({"backend": "agg"}):
        yield pytest.importorskip("lesson")


EACH = [pytest.param(text, index, id=f"{text.stem}-{k}") for text in TEXTS for k, index in enumerate(exercises(text), start=1)]


@pytest.mark.parametrize("text, index", EACH)
def test_exercise_takes_the_solution_and_nothing_else(text, index, lesson):
    stub, check, solution = cells_of(text)[index : index + 3]
    wrong = runpy.run_path(str(ROOT / "tests" / "notebooks" / f"wrong_{text.name[:2]}.py"))["WRONG"]

    def passes(answer: str) -> bool:
        names = dict(after_setup(text))
        lesson.attempt.passed = None
        exec(answer, names)
        exec(check.source, names)
        assert lesson.attempt.passed is not None
        return lesson.attempt.passed

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
