"""tinyfcn.training: a run that a program makes."""

import shutil
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


def test_lists_that_a_share_made_are_kept_whole_whatever_the_subset(voc, tmp_path):
    shutil.rmtree(shutil.copytree(voc, tmp_path / "mine") / "ImageSets")
    config = Config(data=str(tmp_path / "mine"), val_share=0.25, subset=2, subset_seed=1, width=1 / 64, size=(32, 32))
    (tmp_path / "run").mkdir()
    run = training.Run(config, tmp_path / "run")
    run.write_settings()
    train, val = ((tmp_path / "run" / name).read_text().split() for name in ("train.txt", "val.txt"))
    assert len(train) == 6 and len(val) == 2 and not set(train) & set(val)
    again = training.Run(config, tmp_path / "run")  # by these lists now
    assert again.train_set.ids == run.train_set.ids and len(run.train_set) == 2 and again.val_set.ids == tuple(val)
