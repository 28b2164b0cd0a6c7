"""Write the tables of times in the documentation anew from the files in data/results: `python data/results/tables.py`.

Below `<!-- bench: FILE -->` stands a table of whole nets, where rows without a title go on with the last one's work: all
contenders of the pieces of work that it has already; below `<!-- layers: FILE -->` one of single layers; below
`<!-- scaling: FILE -->` one of points beside the model. `tests/test_results.py` checks that they are as this would write them.
"""

import json
import re
from pathlib import Path

from tinyfcn.bench.tables import megabytes, milliseconds, percent

RESULTS = Path(__file__).parent
ROOT = RESULTS.parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACE = re.compile(r"(?<=<!-- )(bench|layers|scaling): (\S+) -->\n\n?((?:\|.*\n)+)")
TASKS = {"forward": "layer", "input gradient": "input gradient", "weight gradient": "weight gradient"}
Record = dict

CELLS = {
    "work": lambda r, first: r["work"] if r is first else "",
    "contender": lambda r, first: r["contender"],
    "time": lambda r, first: milliseconds(r["median_seconds"]),
    "GFLOP/s": lambda r, first: f"{r['gflops']:,.0f}",
    "TFLOP/s": lambda r, first: f"{r['gflops'] / 1e3:.1f}",
    "of the peak": lambda r, first: percent(r["of_peak"]),
    "memory": lambda r, first: megabytes(r["peak_memory"]),
    "tinyfcn / it": lambda r, first: f"{first['median_seconds'] / r['median_seconds']:.2f}",
}


def bench(header: list[str], rows: list[list[str]], records: list[Record]) -> list[list[str]]:
    made = []
    for work in filter(None, (row[0] for row in rows)):
        of_work = [r for r in records if r["work"] == work]
        made += [[CELLS[column](r, of_work[0]) for column in header] for r in of_work]
    return made


def layers(header: list[str], rows: list[list[str]], records: list[Record]) -> list[list[str]]:
    """Time, and ratio to PyTorch, of a layer and its gradients."""
    found: dict[str, dict[str, str]] = {}
    for r in records:
        if r["contender"] == "tinyfcn" and r["task"] in TASKS.values():
            layer = r["work"].removesuffix(r["task"].replace("layer", "forward")).strip()
            found.setdefault(layer, {})[r["task"]] = f"{r['median_seconds'] * 1e3:.0f} ms, {r['time_ratio']['PyTorch']:.2f}"
    return [[layer, *(times.get(TASKS[column], "") for column in header[1:])] for layer, times in found.items()]


def scaling(header: list[str], rows: list[list[str]], records: list[Record]) -> list[list[str]]:
    def cells(r: Record) -> list[str]:
        times = [r["median_seconds"], r["model_seconds"]]
        sizes = [r["peak_memory"], r["model_memory"]]
        return [
            r["work"],
            *map(milliseconds, times),
            f"{times[0] / times[1]:.2f}",
            *map(megabytes, sizes),
            f"{sizes[0] / sizes[1]:.2f}",
        ]

    return [cells(r) for r in records]


KINDS = {"bench": bench, "layers": layers, "scaling": scaling}


def renewed(text: str) -> str:
    """A page with its tables of times as the files say."""

    def table(place: re.Match) -> str:
        kind, name, old = place.groups()
        header, rule, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in old.splitlines()]
        records = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]
        lines = [header, *KINDS[kind](header, rows, records)]
        lines = ["| " + " | ".join(line) + " |" for line in lines]
        lines.insert(1, "|" + "|".join(rule) + "|")
        return place.group(0).removesuffix(old) + "\n".join(lines) + "\n"

    return PLACE.sub(table, text)


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if renewed(text) != text:
            page.write_text(renewed(text), encoding="utf-8")
            print(f"renewed {page.relative_to(ROOT)}")
