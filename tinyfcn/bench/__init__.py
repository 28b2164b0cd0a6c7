"""How fast tinyfcn is on this machine, beside PyTorch, ONNX Runtime and OpenVINO: `python -m tinyfcn.bench`."""
