"""tinyfcn.training: a run that a program makes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tinyfcn import training
from tinyfcn.run import Config

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_a_run_may_train_on_a_thread(voc, tmp_path):
    """Where no signal can be heard: a notebook's widget, a server."""
    config = Config(data=str(voc), width=1 / 64, size=(32, 32), steps=2, batch_size=2, evaluations=1)
    (tmp_path / "run").mkdir()
    run = training.Run(config, tmp_path / "run")
    run.start()
    run.write_settings()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run.train).result()
    assert run.step == 2 and run.paths.best.exists() and run.paths.predictions.exists()
