"""Runs that take a second, and a look at the folders that they leave."""

SMALL = ["--width", "0.03125", "--size", "32", "--batch-size", "2", "--evaluations", "2"]


def files(folder):
    """What is in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
