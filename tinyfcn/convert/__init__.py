"""Published weights into this package's files, and those into files for others: `convert(source, out)`.

`identify` finds out what network a file holds, with the help of `trunk`, which finds VGG16's convolutions by their shapes, and of
`schemes`, which knows what publishers call layers; `onnx` writes an FCN for others.
"""

from __future__ import annotations

import os
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyfcn import weights
from tinyfcn.convert.identify import Source, identify, settle_preprocessing
from tinyfcn.convert.onnx import write_onnx
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.files import check_free, replacing
from tinyfcn.formats import Tensor
from tinyfcn.models import FCN8s, FCN8sAtOnce
from tinyfcn.run import paths


def convert(
    source: Path | str,
    out: Path | str,
    preprocessing: str | None = None,
    at_once: bool = False,
    progress: bool = False,
    overwrite: bool = True,
) -> Source:
    """Read SOURCE and write OUT, tensor by tensor; returns what was recognised, with its description.

    `preprocessing` says how images are prepared where the file cannot tell, `at_once` that an FCN-8s is one trained at once.
    Raises InputError, and leaves no partial file, where SOURCE is not understood or damaged, or OUT is SOURCE, cannot be written,
    or is there already and `overwrite` is False.
    """
    source, out = Path(source), Path(out)
    file = paths(source).best if source.is_dir() else source
    if out.exists() and file.exists() and os.path.samefile(file, out):
        raise InputError(f"{out} is the source itself; give another OUT")
    if out.suffix not in (".safetensors", ".npz", ".onnx"):
        raise InputError(f"{out}: OUT must end in .safetensors, .npz or .onnx")
    check_free([out], overwrite)
    found = identify(file)
    found = found._replace(description=_described(file, found, preprocessing, at_once))
    if out.suffix == ".onnx":
        if not found.own:
            raise InputError(f"{file}: convert it to .safetensors first, and that to .onnx")
        from tinyfcn.inference import load_network  # which imports this package

        net, description = load_network(file, "cpu")
        with replacing(out) as part:
            write_onnx(net, part, description)
        return found
    sizes = {name: prod(tensor.shape) * tensor.dtype.itemsize for name, tensor in found.tensors.items()}
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, leave=False, disable=None if progress else True) as bar:

        def counted(name: str, tensor: Tensor) -> Tensor:
            def read() -> np.ndarray:
                bar.update(sizes[name])
                values = tensor.read()
                weights.check_finite(values, name, file)
                return values

            return tensor._replace(read=read)

        weights.write(out, {name: counted(name, tensor) for name, tensor in found.tensors.items()}, found.description)
    return found


def _described(file: Path, found: Source, preprocessing: str | None, at_once: bool) -> Description:
    """The description to write: what was recognised, and what only the user can tell."""
    about = replace(found.description, preprocessing=settle_preprocessing(file, found, preprocessing))
    if at_once:
        if found.model not in (FCN8s.__name__, FCN8sAtOnce.__name__) or (found.own and found.model == FCN8s.__name__):
            raise InputError(f"{file}: --at-once is for a published FCN-8s, this is {found.title}")
        about = replace(about, model=FCN8sAtOnce.__name__)
    return about
