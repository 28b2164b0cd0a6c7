"""`python -m tinyfcn.convert SOURCE OUT`: published weights into this package's files, and those into files for others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tinyfcn import command, weights
from tinyfcn.convert import convert
from tinyfcn.convert.identify import Source
from tinyfcn.data import PREPROCESSING
from tinyfcn.models import CLASSIFIERS, FCN_CLASSES, FCN8s

DESCRIPTION = """\
Turn a file of weights into another. What SOURCE holds is recognised by its content:

  VGG16      torchvision, timm, Keras, Caffe          AlexNet    torchvision; Caffe's CaffeNet
  FCN-32s, 16s, 8s, at once, on CaffeNet              the authors' files, or their copies for PyTorch

in a .pth or .pt (read without PyTorch), .safetensors, .npz, .h5 or .keras (pip install 'tinyfcn[keras]'), .onnx or .caffemodel
file, or in the folder of a run. VGG16's 13 convolutions are enough; they are found under any names, with any head, and in a model
around them. OUT is a .safetensors or .npz file, for --init, predict, evaluate and PyTorch, or an .onnx file of an FCN (pip
install 'tinyfcn[onnx]').

  python -m tinyfcn.convert vgg16.pth vgg16.safetensors && python -m tinyfcn.train --init vgg16.safetensors --width 1
  python -m tinyfcn.convert fcn8s_from_caffe.pth fcn8s.npz && python -m tinyfcn.predict fcn8s.npz photo.jpg --out labels
  python -m tinyfcn.convert runs/shapes-fcn8s-1 fcn8s.onnx
"""


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.convert", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("source", type=Path, metavar="SOURCE", help="a file of weights, or a run's folder (its best checkpoint)")
    parse.add_argument("out", type=Path, metavar="OUT", help="NAME.safetensors, NAME.npz or NAME.onnx")
    parse.add_argument(
        "--preprocessing",
        "--preprocess",  # as it was called once
        choices=PREPROCESSING,
        help="how its images are prepared, where SOURCE cannot tell",
    )
    parse.add_argument(
        "--at-once", action="store_true", help="SOURCE is FCN-8s trained at once, whose PyTorch file looks like FCN-8s's"
    )
    command.add_overwrite(parse)
    return parse


def main() -> None:
    options = parser().parse_args()
    source = convert(
        options.source, options.out, options.preprocessing, options.at_once, progress=True, overwrite=options.overwrite
    )
    about = source.description
    command.say(f"{options.source}: {source.title}, {len(source.tensors)} tensors, width {about.width:g}, {_head(source)}")
    if source.unused:
        command.say(f"not used: {weights.listed(source.unused)}")
    command.say(f"images are prepared as for {about.preprocessing}" + (", as you say" if options.preprocessing else ""))
    if about.model == FCN8s.__name__ and not source.own:
        command.say("taken for FCN-8s trained in stages; if it was trained at once, add --at-once")
    command.say(f"{options.out}: {options.out.stat().st_size / 1e6:,.1f} MB")


def _head(source: Source) -> str:
    """What stands on the convolutions."""
    about = source.description
    if "fc7.weight" not in source.tensors:
        return "without fc6, fc7 and the classifier"
    scored = not source.tensors.keys().isdisjoint(("fc8.weight", "score_fr.weight"))
    classes = f"{about.num_classes} classes" if scored else "without its classifier"
    backbone = (CLASSIFIERS | FCN_CLASSES)[about.model].backbone
    usual = backbone.scaled(backbone.hidden, about.width)
    return classes if about.hidden in (None, usual) else f"fc6 and fc7 of {about.hidden} channels, {classes}"


if __name__ == "__main__":
    sys.exit(command.run(main))
