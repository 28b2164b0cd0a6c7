"""Keep a run's result: `python data/results/record.py RUN NAME` writes NAME.json beside this file.

One file per run: the command and all options that it came to, the commit, the machine, the seconds, the scores, the
baseline's, and IU per class. With
`--evaluation NAME` the scores are those that `python -m tinyfcn.evaluate` wrote into RUN/evaluation-NAME.
"""

import argparse
import json
import subprocess
from pathlib import Path

from tinyfcn.metrics import SCORES

HERE = Path(__file__).parent
PLACES = ("data", "init", "from_run", "device", "command")  # options that differ from machine to machine, and the command


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("run", type=Path, metavar="RUN")
    parse.add_argument("name", metavar="NAME")
    parse.add_argument("--evaluation", metavar="NAME")
    parse.add_argument("--commit", help="that the run was made at (default: the one that is checked out)")
    options = parse.parse_args()
    config = json.loads((options.run / "config.json").read_text())
    trained = json.loads((options.run / "metrics.json").read_text())
    folder = options.run / f"evaluation-{options.evaluation}" if options.evaluation else options.run
    scored = json.loads((folder / "metrics.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
    result = {
        "command": config["command"],
        "options": {name: value for name, value in config.items() if name not in PLACES},
        "commit": options.commit or head.stdout.strip(),
        "machine": trained["machine"],
        "seconds": trained["seconds"],
        "step": trained["step"],
        "split": options.evaluation or config["val_split"],
        "scores": {name: scored[name] for name in SCORES},
        "baseline": scored["constant_baseline"],
        "iou": scored["iou"],
    }
    (HERE / f"{options.name}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
