"""The page of a run, index.html: all that there is to see of it, in a browser, without scripts and without a connection."""

from __future__ import annotations

from html import escape
from pathlib import Path

from tinyfcn.errors import one_line
from tinyfcn.files import write_text
from tinyfcn.metrics import SCORES
from tinyfcn.report import Metrics, read_log
from tinyfcn.run import paths, read_config
from tinyfcn.values import read_record

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { font-weight: 600; line-height: 1.2 } h2 { margin-top: 2.5rem }
pre { background: #f4f4f4; padding: .7rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere }
table { border-collapse: collapse } th, td { padding: .15rem .9rem .15rem 0; text-align: right; font-weight: 400 }
th:first-child, td:first-child { text-align: left } thead { border-bottom: 1px solid #999 }
td { font-variant-numeric: tabular-nums } img { max-width: 100% }
.columns { display: flex; flex-wrap: wrap; gap: 1rem 4rem; align-items: flex-start }
"""
PICTURES = {"curves": "Curves", "predictions": "Predictions", "confusion": "Confusion matrix"}  # by name in `Paths`


def write(run: Path) -> None:
    """Write the page of a run's folder, from the files that are there."""
    files, config = paths(run), read_config(run)
    rows = read_log(files.log)
    name = escape(one_line(run.resolve().name))
    done = f"step {rows[-1]['step']:,} of {config.steps:,}, loss {rows[-1]['loss']:.4g}" if rows else f"of {config.steps:,} steps"
    parts = [f"<h1>{name}</h1>", f"<p>{escape(one_line(config.model))} on {escape(one_line(config.data))}; {done}</p>"]
    if config.command:
        parts.append(f"<pre>{escape(one_line(config.command, 10_000))}</pre>")
    if files.metrics.exists():
        parts.append(_scores(read_record(Metrics, files.metrics)))
    for field, title in PICTURES.items():
        path = getattr(files, field)
        if path.exists():
            parts.append(f'<h2>{title}</h2>\n<img src="{path.name}" alt="{title}">')
    head = f'<meta charset="utf-8">\n<title>{name}</title>\n<style>{STYLE}</style>'
    write_text(files.page, "\n".join([f'<!doctype html>\n<html lang="en">\n{head}', *parts, "</html>\n"]))


def _scores(metrics: Metrics) -> str:
    scores = [(name.replace("_", " "), getattr(metrics, name), metrics.constant_baseline[name]) for name in SCORES]
    classes = [(one_line(name), value) for name, value in metrics.iou.items()]
    best = _table(["", "this net", "one class"], scores)
    each = _table(["class", "IU"], classes)
    return (
        f"<h2>Scores of the best checkpoint, step {metrics.step:,}</h2>\n"
        f'<div class="columns">\n<div>{best}\n<p>one class: the most frequent one everywhere</p></div>\n{each}\n</div>'
    )


def _table(head: list[str], rows: list[tuple[str, float | None]] | list[tuple[str, float, float]]) -> str:
    lines = ["<table><thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead><tbody>"]
    for name, *values in rows:
        cells = "".join("<td>not in the labels</td>" if value is None else f"<td>{value:.3f}</td>" for value in values)
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table>"])
