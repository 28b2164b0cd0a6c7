"""The log of a run for TensorBoard: `tensorboard --logdir runs` draws its losses and scores."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tinyfcn.errors import InputError
from tinyfcn.report import Row

TAGS = {"loss": "loss/training", "validation_loss": "loss/validation", "lr": "speed/lr", "images_per_s": "speed/images_per_s"}


def check_tensorboard() -> None:
    """Raise InputError where the package that writes its files is missing."""
    try:
        import_module("tensorboard")
    except ImportError:
        raise InputError('--tensorboard takes a package that is not installed: pip install "tinyfcn[tensorboard]"') from None


class Board:
    """Files of events in a folder. What was written there after the step at which a run is resumed no longer counts."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step
        self.writer: Any = None

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()

    def write(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if not self.writer:  # not before there is something to keep
            self.writer = EventFileWriter(str(self.folder))
            begun = SessionLog(status=SessionLog.START)
            self.writer.add_event(Event(wall_time=time.time(), step=self.step + 1, session_log=begun))
        numbers = {TAGS.get(name, f"score/{name}"): value for name, value in row.items() if name != "step"}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self.writer.add_event(Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values)))
