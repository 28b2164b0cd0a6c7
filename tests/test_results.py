"""Tables of results in the documentation say what the files in data/results say.

A table that reports runs stands below a comment that names, row by row, the files: `<!-- results: camvid-8s, ... -->`;
`NAME:baseline` is the constant baseline of that run's list, and a row named with a `*`, as `8s-*`, has the means of the runs that
only differ in their seeds; "least" and "most" are theirs of mean IU. Tables of times are those of `data/results/tables.py`.
"""

import fnmatch
import json
import re
import shlex
from dataclasses import asdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import mean

import pytest

from tinyfcn.options import configure, next_stage, parser

ROOT = Path(__file__).parents[1]
SPEC = spec_from_file_location("tables", ROOT / "data" / "results" / "tables.py")
TABLES = module_from_spec(SPEC)
SPEC.loader.exec_module(TABLES)
PAGES = TABLES.PAGES
RESULTS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "data" / "results").glob("*.json"))}
RUNS = {name: result for name, result in RESULTS.items() if "scores" in result}
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


def runs_of(name):
    """The runs that a row is about."""
    return [RUNS[run] for run in fnmatch.filter(RUNS, name.partition(":")[0])]


def expected(name, column):
    """What a cell of this column must say for a row's runs, or None where the column is none of their numbers."""
    results, part = runs_of(name), "baseline" if name.endswith(":baseline") else "scores"
    if column in SCORES:
        return f"{mean(result[part][SCORES[column]] for result in results):.3f}"
    if part == "baseline":
        return None
    if column in ("least", "most"):
        return f"{(min if column == 'least' else max)(result['scores']['mean_iou'] for result in results):.3f}"
    if column in results[0]["iou"]:
        values = [result["iou"][column] for result in results]
        return "" if None in values else f"{mean(values):.2f}"
    amounts = {"steps": ("step", 1, ",.0f"), "minutes": ("seconds", 60, ".0f"), "seconds": ("seconds", 1, ".0f")}
    if column in amounts:
        key, unit, form = amounts[column]
        return f"{mean(result[key] for result in results) / unit:{form}}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_of_times_are_as_the_files_say(page):
    text = page.read_text(encoding="utf-8")
    assert TABLES.renewed(text) == text, "python data/results/tables.py writes them anew"


def test_a_table_of_times_is_written_from_its_file(tmp_path, monkeypatch):
    """A number that the file does not say is found, and what the table has not is added."""
    times = {"tinyfcn": 1.0, "PyTorch": 2.0}
    records = [
        {"work": "a step", "task": "step", "contender": name, "median_seconds": time, "gflops": 1234.4, "peak_memory": 5e6}
        for name, time in times.items()
    ]
    (tmp_path / "here.json").write_text(json.dumps({"results": records}))
    monkeypatch.setattr(TABLES, "RESULTS", tmp_path)
    head = (
        "text\n\n<!-- bench: here -->\n| work | contender | time | GFLOP/s | memory | tinyfcn / it |\n|---|---|---|---|---|---|\n"
    )
    made = TABLES.renewed(head + "| a step | tinyfcn | 2.0 ms | 1 | 1 MB | 2.00 |\n\nmore text\n")
    rows = ["| a step | tinyfcn | 1,000.0 ms | 1,234 | 5 MB | 1.00 |", "|  | PyTorch | 2,000.0 ms | 1,234 | 5 MB | 0.50 |"]
    assert made == head + "\n".join(rows) + "\n\nmore text\n" == TABLES.renewed(made)


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
def test_a_command_still_means_what_it_meant(name):
    """Recipes and defaults may change: then a result is of another run than its command makes, and must be made anew."""
    arguments = shlex.split(RUNS[name]["command"])[3:]
    given = {option: value for option, value in vars(parser().parse_args(arguments)).items() if option != "out"}
    sizes = {"width": 1.0} if "init" in given else {}  # of VGG16's convolutions
    base = {}
    if "from_run" in given:  # a stage: as in the run before, on whichever machine that was
        before = Path(given["from_run"]).name
        base = next_stage(RUNS[before if before in RUNS else f"h100-{before}"]["options"], given)
    options = json.loads(json.dumps(asdict(configure(base, given, sizes))))
    assert {option: options[option] for option in RUNS[name]["options"]} == RUNS[name]["options"]


def test_each_command_of_the_documentation_that_made_a_run_stands_in_its_file():
    """A page that shows a table shows the command of each run in it."""
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").replace("\\\n", " ").split())
        for names, _, _ in tables(page.read_text(encoding="utf-8")):
            for name in names:
                for result in runs_of(name):
                    command = result["command"]
                    if "*" in name:  # with SEED for each of several
                        command = re.sub(r"(--seed |--out runs/\w+-)\d\b", r"\1SEED", command)
                    assert command in text, f"{page.name} does not show how {name} was made: {command}"
