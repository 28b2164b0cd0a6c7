"""Plausible wrong answers to each exercise of notebook 8: its check must not accept them."""

WRONG = {
    # Offsets as the header has them, which count from its end.
    "list_tensors": [
        """
def list_tensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: (e["dtype"], tuple(e["shape"]), e["data_offsets"][0]) for name, e in header.items()}
"""
    ],
    # The right shape, the wrong order: as if channels came before rows and columns.
    "from_keras": [
        """
def from_keras(kernel, side):
    return kernel.T.reshape(kernel.shape[1], -1, side, side)
"""
    ],
    # The means stay where they are in BGR.
    "caffe_to_torchvision": [
        """
def caffe_to_torchvision(weight, bias):
    caffe, torchvision = PREPROCESSING["caffe"], PREPROCESSING["torchvision"]
    mean, std = 255 * np.array(torchvision.mean), 255 * np.array(torchvision.std)
    shift = mean - np.array(caffe.mean)
    rgb = weight[:, ::-1]
    return rgb * std[:, None, None], bias + (rgb * shift[:, None, None]).sum(axis=(1, 2, 3))
"""
    ],
    # Whatever fits is loaded, whatever does not is passed over; score layers are never loaded.
    "sort_out": [
        """
def sort_out(file, network):
    loaded = [name for name, shape in network.items() if file.get(name) == shape]
    return loaded, [name for name in network if name not in loaded]
""",
        """
def sort_out(file, network):
    loaded = [name for name in network if name in file and not name.startswith("score")]
    if any(file[name] != network[name] for name in loaded):
        raise ValueError("shapes differ")
    return loaded, [name for name in network if name not in loaded]
""",
    ],
}
