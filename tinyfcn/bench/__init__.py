"""How fast tinyfcn is on this machine, beside PyTorch and ONNX Runtime: `python -m tinyfcn.bench`."""
