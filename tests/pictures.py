"""Pictures that say nothing: Matplotlib takes longer than all that a small run computes."""

from pathlib import Path

from tinyfcn import plot
from tinyfcn.files import replacing


def draw_nothing(patch):
    """Let the commands write the files of their pictures as always, with nothing in them."""

    def draw(*arguments):
        with replacing(next(path for path in arguments if isinstance(path, Path) and path.suffix == ".png")) as partial:
            partial.write_bytes(b"a picture")

    for name in "curves", "predictions", "confusion":
        patch.setattr(plot, name, draw)
