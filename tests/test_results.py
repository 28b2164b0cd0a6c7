"""Tables of results in the documentation say what the files in data/results say.

A table that reports runs stands below a comment that names, row by row, the files: `<!-- results: camvid-8s, ... -->`;
`NAME:baseline` is the constant baseline of that run's list.
"""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from tinyfcn import train

ROOT = Path(__file__).parents[1]
RESULTS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "data" / "results").glob("*.json"))}
RUNS = {name: result for name, result in RESULTS.items() if "scores" in result}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCORES = {
    "pixel accuracy": "pixel_accuracy",
    "mean accuracy": "mean_accuracy",
    "mean IU": "mean_iou",
    "f.w. IU": "frequency_weighted_iou",
}


def tables(text):
    """(names, header, rows) of each table that reports runs; rows and header as lists of cells."""
    for names, table in re.findall(r"<!-- results: (.+?) -->\n\n?((?:\|.*\n)+)", text):
        lines = [[cell.strip().strip("*") for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        yield names.split(", "), lines[0], lines[2:]


def expected(name, column):
    """What a cell of this column must say for a result, or None where the column is none of its numbers."""
    name, _, part = name.partition(":")
    result = RUNS[name]
    if column in SCORES:
        return f"{result['baseline' if part else 'scores'][SCORES[column]]:.3f}"
    if part:
        return None
    if column in result["iou"]:
        value = result["iou"][column]
        return "" if value is None else f"{value:.2f}"
    return {"steps": f"{result['step']:,}", "minutes": f"{result['seconds'] / 60:.0f}"}.get(column)


PLACES = [(page, k) for page in PAGES for k, _ in enumerate(tables(page.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("page, k", PLACES, ids=[f"{page.stem}-{k}" for page, k in PLACES])
def test_a_table_says_what_the_runs_say(page, k):
    names, header, rows = list(tables(page.read_text(encoding="utf-8")))[k]
    assert len(names) == len(rows), f"{len(rows)} rows, but the comment above names {names}"
    compared = 0
    for name, row in zip(names, rows, strict=True):
        for column, cell in zip(header, row, strict=True):
            value = expected(name, column)
            compared += value is not None
            assert value is None or cell == value, f"{page.name}: {name}, {column}: the page says {cell}, the run {value}"
    assert compared >= 2 * len(rows)


@pytest.mark.parametrize("name", RUNS)
def test_a_result_says_how_to_get_it_again(name):
    result = RUNS[name]
    assert result["command"].startswith("python -m tinyfcn.train") and re.fullmatch("[0-9a-f]{40}", result["commit"])
    assert result["seconds"] > 0 and result["step"] > 0 and ("NumPy" in result["machine"] or "CuPy" in result["machine"])
    labelled = [value for value in result["iou"].values() if value is not None]
    assert sum(labelled) / len(labelled) == pytest.approx(result["scores"]["mean_iou"])


@pytest.mark.parametrize("name", RUNS)
def test_a_command_still_means_what_it_meant(name, monkeypatch):
    """Recipes and defaults may change: then a result is of another run than its command makes, and must be made anew."""
    arguments = shlex.split(RUNS[name]["command"])[3:]
    given = {option: value for option, value in vars(train.parser().parse_args(arguments)).items() if option != "out"}
    monkeypatch.setattr(train, "identify", lambda path: path)
    monkeypatch.setattr(train, "sizes_of", lambda source: {"width": 1.0})  # VGG16's convolutions
    before = RUNS[Path(given["from_run"]).name]["options"] if "from_run" in given else {}  # a stage: as in the run before
    base = train._of_stage(before, given) if before else {}
    options = json.loads(json.dumps(asdict(train._config(base, given))))
    assert {option: options[option] for option in RUNS[name]["options"]} == RUNS[name]["options"]


def test_each_command_of_the_documentation_that_made_a_run_stands_in_its_file():
    """A page that shows a table shows the command of each run in it."""
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").replace("\\\n", " ").split())
        for names, _, _ in tables(page.read_text(encoding="utf-8")):
            for name in names:
                command = RUNS[name.partition(":")[0]]["command"]
                assert command in text, f"{page.name} does not show how {name} was made: {command}"
