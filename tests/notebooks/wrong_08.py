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
    "from_keras": [
        # The right shape, the wrong order: as if channels came before rows and columns.
        """
def from_keras(tensors, side):
    ours = {f"{name}.bias": tensors[f"{name}/bias"] for name in ("conv", "fc6", "fc7")}
    fc6, fc7 = tensors["fc6/kernel"], tensors["fc7/kernel"]
    return ours | {
        "conv.weight": tensors["conv/kernel"].transpose(3, 2, 0, 1),
        "fc6.weight": fc6.T.reshape(fc6.shape[1], -1, side, side),
        "fc7.weight": fc7.T[:, :, None, None],
    }
""",
        # Rows and columns exchanged, as where all axes are turned round.
        """
def from_keras(tensors, side):
    ours = {f"{name}.bias": tensors[f"{name}/bias"] for name in ("conv", "fc6", "fc7")}
    fc6, fc7 = tensors["fc6/kernel"], tensors["fc7/kernel"]
    return ours | {
        "conv.weight": tensors["conv/kernel"].T,
        "fc6.weight": fc6.reshape(side, side, -1, fc6.shape[1]).T,
        "fc7.weight": fc7.T[:, :, None, None],
    }
""",
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
