"""Which exercises you have solved, as your saved notebooks show: python progress.py [FOLDER ...]

In a notebook: `from progress import progress; progress()`. A teacher gives each learner's folder.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

STATES = {"Right!": "right", "Not right yet": "not right yet", "Not solved yet": "not solved yet"}


def results(notebook: Path) -> list[tuple[str, str]]:
    """Title and state of each exercise of a notebook: what its check printed when the notebook was last saved."""
    found, title = [], ""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if heading := re.search(r"^### Exercise \d+: (.*)$", source, flags=re.MULTILINE):
            title = heading[1]
        if "check" in cell["metadata"].get("tags", []):
            printed = "".join("".join(output.get("text", [])) for output in cell["outputs"])
            found.append((title, next((state for words, state in STATES.items() if words in printed), "not run")))
    return found


def progress(folder: str | Path = Path(__file__).parent) -> None:
    """Print a table of all exercises of the notebooks in a folder."""
    solved = total = 0
    for notebook in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        exercises = results(notebook)
        right = sum(state == "right" for _, state in exercises)
        solved, total = solved + right, total + len(exercises)
        print(f"{notebook.stem}: {right} of {len(exercises)}")
        for title, state in exercises:
            print(f"  {'[x]' if state == 'right' else '[ ]'} {title:50} {state}")
    print(f"{solved} of {total} exercises are solved")


if __name__ == "__main__":
    for folder in sys.argv[1:] or [Path(__file__).parent]:
        if len(sys.argv) > 2:
            print(f"== {folder}")
        progress(folder)
