"""Processes that train together by MPI make the steps of one; where one of them dies, all end, and the run can go on later."""

import csv
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from safetensors.numpy import load_file

HERE = Path(__file__).parent
MPIEXEC = which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
# Open MPI wants to be told that it may run as root, as in a container, and more ranks than there are cores.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
TINY = ["--subset", "8", "--width", "0.02", "--size", "48", "--batch-size", "5", "--evaluations", "1"]

pytestmark = pytest.mark.skipif(
    not (MPIEXEC and find_spec("mpi4py")), reason="needs mpi4py and mpiexec: pip install mpi4py mpich"
)


def start(ranks, *arguments):
    return subprocess.Popen(
        [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | OPEN_MPI | {"PYTHONPATH": str(HERE.parent), "MPLBACKEND": "agg"},
    )


def run(ranks, *arguments):
    process = start(ranks, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def train(ranks, *arguments):
    status, out, err = run(ranks, "-m", "tinyfcn.train", *arguments)
    assert status == 0, err
    return out


def log(folder):
    with (folder / "log.csv").open() as file:
        return [
            {name: float(value) for name, value in row.items() if value and name != "images_per_s"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("ranks, reduction", [(2, "sum"), (3, "mean")])
def test_shares_of_a_batch_make_the_step_of_the_whole(ranks, reduction):
    status, out, err = run(ranks, HERE / "ranks_job.py", reduction)
    assert (status, out.count("agrees")) == (0, ranks), err


def test_a_run_of_several_processes_is_the_run_of_one_and_goes_on_with_another_number(tmp_path):
    train(1, *TINY, "--steps", 10, "--out", tmp_path / "one")
    out = train(3, *TINY, "--steps", 10, "--out", tmp_path / "three")
    assert "3 processes share each batch" in out and out.count("IU per class") == 1
    for some in "one", "three":
        train(2 if some == "three" else 1, "--resume", tmp_path / some, "--steps", 20)
    one, three = (log(tmp_path / some) for some in ("one", "three"))
    assert [row["step"] for row in one] == [row["step"] for row in three] == [10, 20]
    for row, other in zip(one, three, strict=True):
        assert other == pytest.approx(row, rel=1e-4)
    weights = [load_file(tmp_path / some / "last.safetensors") for some in ("one", "three")]
    assert weights[0].keys() == weights[1].keys()
    for name, p in weights[0].items():
        np.testing.assert_allclose(weights[1][name], p, atol=1e-4)


def test_scores_and_predictions_are_shared_out(tmp_path):
    train(1, *TINY, "--steps", 1, "--out", tmp_path / "run")
    for ranks in 1, 3:
        status, _, err = run(ranks, "-m", "tinyfcn.evaluate", tmp_path / "run", "--out", tmp_path / f"scores{ranks}")
        assert status == 0, err
    assert (tmp_path / "scores1/metrics.json").read_text() == (tmp_path / "scores3/metrics.json").read_text()
    photographs = sorted((HERE.parent / "data/photographs").glob("*.jpg"))
    for ranks in 1, 3:
        out = tmp_path / f"labels{ranks}"
        status, told, err = run(ranks, "-m", "tinyfcn.predict", tmp_path / "run", *photographs, "--out", out, "--max-side", 64)
        assert status == 0 and f"{len(photographs)} label image(s)" in told, err
    some = *photographs, tmp_path / "none.jpg", "--only-labels", "--out", tmp_path / "some"
    status, told, err = run(3, "-m", "tinyfcn.predict", tmp_path / "run", *some)
    assert status == 1 and f"{len(photographs)} label image(s)" in told and err.count("none.jpg") == 2, err
    for path in photographs:
        name = f"{path.stem}.png"
        assert (tmp_path / "labels1" / name).read_bytes() == (tmp_path / "labels3" / name).read_bytes()


def test_what_cannot_be_used_is_one_line(tmp_path):
    for arguments in ["--batch-size", 1], ["--data", tmp_path / "none"], ["--steps", 0]:
        begun = time.monotonic()
        status, _, err = run(2, "-m", "tinyfcn.train", *arguments, "--out", tmp_path / "run")
        assert status == 2 and time.monotonic() - begun < 30
        first, *others = err.splitlines()
        assert first.startswith("error: ") and "Traceback" not in err, err
        assert others == [] or others[0].startswith(("Abort(", "-----")), err  # what MPICH and Open MPI say of it
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_rank_that_dies_ends_all_and_the_run_goes_on(tmp_path):
    job = start(3, "-m", "tinyfcn.train", *TINY, "--steps", 100_000, "--out", tmp_path / "run")
    until = time.monotonic() + 60
    while not (tmp_path / "run/log.csv").exists() or len(log(tmp_path / "run")) < 1:
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.1)
    ranks = descendants(job.pid)
    assert len(ranks) == 3
    os.kill(ranks[-1], signal.SIGKILL)
    job.communicate(timeout=20)
    assert job.returncode != 0 and not descendants(job.pid)
    train(2, "--resume", tmp_path / "run", "--steps", 10)
    assert [row["step"] for row in log(tmp_path / "run")] == [10]


def descendants(pid):
    """Python's processes that a process has started, itself or through others."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
            parent = int(rest.split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child] if "python" in name else descendants(child)
    return sorted(found)
