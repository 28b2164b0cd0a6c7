"""What `tinyfcn.bench` times: pieces of work, and the contenders that do them, each in a process of its own.

A contender's function takes a piece of work, gets everything ready, and returns the call to time. All contenders see the same
numbers, drawn from the same seeds, in the layout that each has in its own network.

The other libraries are loaded by name, where they are timed: none is needed by anything else here.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from tinyfcn import ops
from tinyfcn.backend import Array, by_pixels, choose_device, thread_count, to_device
from tinyfcn.bench.cost import arithmetic, traffic
from tinyfcn.convert.onnx import write_onnx
from tinyfcn.models import FCN, FCN8s
from tinyfcn.models.crop import cropped_sum, window
from tinyfcn.models.network import layer_of
from tinyfcn.optim import BIAS_RATE, SGD, Adam
from tinyfcn.parallel import in_pieces, map_shares
from tinyfcn.step import train_step

TINYFCN, COLUMNS, TORCH, TF32, ONNX = "tinyfcn", "tinyfcn columns", "PyTorch", "PyTorch TF32", "ONNX Runtime"
CHANNELS_LAST, COMPILED, TORCH_BF16 = "PyTorch channels last", "PyTorch compiled", "PyTorch bf16"
OPENVINO, OPENVINO_BF16 = "OpenVINO", "OpenVINO bf16"
NEEDS = {  # modules, the contender's own one first
    **dict.fromkeys((TORCH, CHANNELS_LAST, TF32, COMPILED, TORCH_BF16), ("torch",)),
    ONNX: ("onnxruntime", "onnx"),
    **dict.fromkeys((OPENVINO, OPENVINO_BF16), ("openvino", "onnx")),
}
SLOW_TO_START, ROUNDING = (COMPILED,), (TORCH_BF16, OPENVINO_BF16)  # who takes part only where asked for

CLASSES = 21  # PASCAL VOC's
LEARNING_RATE = 1e-6
AGAIN = 50  # times, what is short
CPUINFO = Path("/proc/cpuinfo")
SPAWN = get_context("spawn")


class Work(NamedTuple):
    """A piece of work: `task` is one that every one of `contenders` has in JOBS."""

    title: str
    task: str
    contenders: tuple[str, ...]
    shape: tuple[int, ...]  # of the images, or of the layer's input, or (n,) for a product of n x n matrices
    width: float = 1.0  # of the net
    padding: str = "paper"  # of the net
    weight: tuple[int, ...] = ()  # shape of the layer's
    edge: int = 1  # padding of the layer
    device: str = "cpu"  # or "gpu"
    hidden: int | None = None  # channels of the net's fc6 and fc7; None: 4096 x width
    threads: int = 0  # 0: as many as there are


class Job(NamedTuple):
    """A piece of work that is ready to run."""

    run: Callable[[], Any]
    arithmetic: int = 0  # floating-point operations of a run; only tinyfcn's own jobs need to know
    traffic: int = 0  # bytes that a run must read and write at least; likewise


def installed(contender: str) -> bool:
    return all(find_spec(module) for module in NEEDS.get(contender, ()))


def obstacle(contender: str) -> str | None:
    """What keeps a contender that is installed from taking part on this machine, or None."""
    if contender in ROUNDING and not has_bf16():
        return "the processor has no bf16 instructions, and would emulate them"
    if contender == COMPILED and not shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")):
        return "there is no C++ compiler"
    return None


def has_bf16() -> bool:
    """Whether the processor multiplies in bf16, by what Linux says of it; elsewhere that is not known."""
    try:
        return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(CPUINFO.read_text(encoding="utf-8").split())
    except OSError:
        return False


# The same numbers for all


def network(work: Work) -> FCN8s:
    """The net, with scores that are not zero as they are before training, and without dropout."""
    xp = choose_device(work.device)
    net = FCN8s(CLASSES, work.width, work.padding, hidden=work.hidden, dropout=0.0, xp=xp)
    rng = np.random.default_rng(1)
    for name, p in net.params.items():
        if layer_of(name) in net.score_layers:
            p[...] = to_device(0.01 * rng.standard_normal(p.shape, p.dtype), xp)
    return net


def batch(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, H, W) and labels (N, H, W)."""
    n, _, h, w = work.shape
    rng = np.random.default_rng(2)
    return rng.standard_normal(work.shape, np.float32), rng.integers(CLASSES, size=(n, h, w), dtype=np.uint8)


def layer_arrays(work: Work) -> tuple[np.ndarray, ...]:
    """x, weight, bias, and a gradient dy at the output."""
    n, _, h, w = work.shape
    grow = 2 * work.edge - 2
    rng = np.random.default_rng(3)
    shapes = work.shape, work.weight, work.weight[:1], (n, work.weight[0], h + grow, w + grow)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


# tinyfcn


OPTIMISERS: dict[str, Callable[[float], SGD | Adam]] = {"step": SGD, "fine-tune": Adam}  # of tasks


def forward(work: Work) -> Job:
    net, (x, _) = network(work), _batch(work)
    return Job(lambda: net.forward(x), *_amounts(net, work))


def step(work: Work) -> Job:
    net, (x, labels), optimiser = network(work), _batch(work), OPTIMISERS[work.task](LEARNING_RATE)
    return Job(lambda: train_step(net, optimiser, x, labels), *(3 * amount for amount in _amounts(net, work)))


def layer(work: Work) -> Job:
    """A convolution or one of its gradients; maps of many channels lie pixel by pixel, as the network has them."""
    xp = choose_device(work.device)
    x, weight, bias, dy = (to_device(array, xp) for array in layer_arrays(work))
    amounts = 2 * weight.size * len(dy) * prod(dy.shape[2:]), x.nbytes + weight.nbytes + dy.nbytes
    x, dy = (a if a.shape[1] == 3 else by_pixels(a) for a in (x, dy))
    if work.task == "layer":
        return Job(lambda: ops.conv2d_forward(x, weight, bias, padding=work.edge), *amounts)
    if work.task == "input gradient":  # how conv2d_backward computes it too: the convolution with the kernel turned round
        turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
        return Job(lambda: ops.conv2d_forward(dy, turned, padding=2 - work.edge), *amounts)
    _, cache = ops.conv2d_forward(x, weight, bias, padding=work.edge)
    return Job(lambda: ops.conv2d_backward(dy, cache, need_dx=False), *amounts)


def product(work: Work) -> Job:
    """The matrix product alone, on as many threads: what the machine can do."""
    (n,), xp = work.shape, choose_device(work.device)
    a, b = to_device(np.random.default_rng(4).standard_normal((2, n, n), np.float32), xp)
    c = xp.empty_like(a)
    threadpool_limits(thread_count(), user_api="blas")  # until the process ends
    return Job(lambda: xp.matmul(a, b, out=c), 2 * n**3, 3 * a.nbytes)


def copy(work: Work) -> Job:
    """A copy of so many float32 numbers, on the threads: how fast memory is."""
    xp = choose_device(work.device)
    a, b = xp.ones(work.shape, np.float32), xp.zeros(work.shape, np.float32)

    def piece(target: Array, source: Array) -> None:
        target[...] = source

    return Job(lambda: in_pieces(piece, b, a), traffic=2 * a.nbytes)


def transform(work: Work) -> Job:
    """Products of 6x6 matrices with rows of so many numbers, as Winograd's transforms are, in each thread's cache."""
    matrix = np.random.default_rng(5).standard_normal((6, 6), np.float32)
    source = np.ones((16, 6, *work.shape), np.float32)
    run = in_each_thread(lambda x, y: np.matmul(matrix, x, out=y), source, source)
    return Job(run, AGAIN * thread_count() * 2 * 6 * source.size)


def block_copy(work: Work) -> Job:
    """Copies of blocks as large as the convolutions' inside each thread's cache, every fourth pixel, as tiles are cut."""
    source = np.ones((work.shape[0] // 256, 4, 64), np.float32)
    run = in_each_thread(lambda x, y: np.copyto(y, x.swapaxes(0, 1)), source, source.swapaxes(0, 1))
    return Job(run, traffic=AGAIN * thread_count() * 2 * source.nbytes)


def in_each_thread(change: Callable[[np.ndarray, np.ndarray], Any], source: np.ndarray, target: np.ndarray) -> Callable[[], Any]:
    """A call in which each thread changes, AGAIN and again, a copy of `target` given one of `source`."""
    arrays = [(np.array(source, order="C"), np.array(target, order="C")) for _ in range(thread_count())]

    def work(share: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        for pair in share:
            for _ in range(AGAIN):
                change(*pair)

    return lambda: map_shares(np, work, arrays)


def _batch(work: Work) -> Iterator[Array]:
    return (to_device(array, choose_device(work.device)) for array in batch(work))


def _amounts(net: FCN, work: Work) -> tuple[int, int]:
    """Arithmetic and traffic of a forward pass."""
    of = {name: p.shape for name, p in net.params.items()}, work.padding, work.shape
    return arithmetic(*of), traffic(*of)


# PyTorch


class Way(NamedTuple):
    """How PyTorch computes. `fine-tune` has its channels last in any case, which is faster there."""

    channels_last: bool = False
    tf32: bool = False  # on a GPU's tensor cores: factors are rounded to 10 bits of mantissa, sums are float32
    bf16: bool = False  # where PyTorch's autocast rounds to it
    compiled: bool = False


WAYS = {
    TORCH: Way(),
    CHANNELS_LAST: Way(channels_last=True),
    TF32: Way(tf32=True),
    COMPILED: Way(compiled=True),
    TORCH_BF16: Way(channels_last=True, bf16=True),
}


def load_torch(work: Work, way: Way) -> tuple[Any, Callable[[np.ndarray], Any], Any]:
    """PyTorch, what makes a tensor on the work's device of a NumPy array, and the context in which to compute."""
    torch = import_module("torch")
    torch.set_num_threads(thread_count())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = way.tf32
    layout = torch.channels_last if way.channels_last or work.task == "fine-tune" else torch.contiguous_format

    def tensor(array: np.ndarray) -> Any:
        there = torch.from_numpy(array).to("cuda" if work.device == "gpu" else "cpu")
        return there.contiguous(memory_format=layout) if array.ndim == 4 else there

    return torch, tensor, torch.autocast("cpu", torch.bfloat16) if way.bf16 else nullcontext()


def torch_scores(net: FCN, params: dict[str, Any], kernels: dict[str, Any], x: Any) -> Any:
    """The scores that `net` gives, with PyTorch's functions, from its parameters and upsampling kernels as tensors."""
    f = import_module("torch").nn.functional

    def conv(name: str, x: Any, padding: int = 0) -> Any:
        return f.conv2d(x, params[f"{name}.weight"], params[f"{name}.bias"], padding=padding)

    height, width = map(int, x.shape[2:])
    pools = []
    for _, block, convs in net.backbone.padded(net.first_padding):
        for layer in convs:
            x = f.relu_(conv(layer.name, x, layer.padding))
        x = f.max_pool2d(x, block.pool, 2, ceil_mode=True)
        pools.append(x)
    x = f.relu_(conv("fc6", x, net.fc6_padding))
    x = conv("score_fr", f.relu_(conv("fc7", x)))
    for (name, stride), skip in zip_longest(net.upsamplings.items(), net.skips):
        x = f.conv_transpose2d(x, kernels[name], stride=stride, groups=net.num_classes)  # faster than a dense diagonal kernel
        if skip:
            x, _ = cropped_sum(conv(skip, pools[net.skips[skip] - 1]), x, net.offsets[skip])
    return x[window(net.offsets["score"], height, width)].contiguous()


def torch_network(work: Work, way: Way) -> tuple[Any, dict[str, Any], Any, Any, Callable[[Any], Any]]:
    """PyTorch, parameters, images and labels as tensors, and the function from images to scores."""
    (torch, tensor, context), net = load_torch(work, way), network(work._replace(device="cpu"))
    params = {name: tensor(p) for name, p in net.params.items()}
    kernels = {
        name: tensor(ops.bilinear_weight(1, side, net.dtype)).repeat(net.num_classes, 1, 1, 1)
        for name, side in net.kernels.items()
    }
    x, labels = map(tensor, batch(work))

    def scores(x: Any) -> Any:
        with context:
            return torch_scores(net, params, kernels, x)

    return torch, params, x, labels, torch.compile(scores) if way.compiled else scores


def torch_forward(work: Work, way: Way) -> Job:
    torch, _, x, _, scores = torch_network(work, way)
    return Job(torch.inference_mode()(lambda: scores(x)))


def torch_step(work: Work, way: Way) -> Job:
    """As tinyfcn's: biases learn at twice the rate, and do not decay."""
    torch, params, x, labels, scores = torch_network(work, way)
    labels = labels.long()
    ours = OPTIMISERS[work.task](LEARNING_RATE)
    groups = [
        {"params": [p for name, p in params.items() if name.endswith(".weight")], "weight_decay": ours.weight_decay},
        {"params": [p for name, p in params.items() if name.endswith(".bias")], "lr": BIAS_RATE * ours.lr},
    ]
    for p in params.values():
        p.requires_grad_()
    if isinstance(ours, SGD):
        optimiser = torch.optim.SGD(groups, ours.lr, ours.momentum)
    else:
        optimiser = torch.optim.Adam(groups, ours.lr, ours.betas, ours.eps)

    def run() -> Any:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores(x).float(), labels, ignore_index=255)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return Job(run)


def torch_layer(work: Work, way: Way) -> Job:
    torch, tensor, _ = load_torch(work, way)
    x, weight, bias, dy = map(tensor, layer_arrays(work))
    if work.task == "layer":
        return Job(torch.inference_mode()(lambda: torch.nn.functional.conv2d(x, weight, bias, padding=work.edge)))
    wanted = [True, False, False] if work.task == "input gradient" else [False, True, True]
    one, edge, none = [1, 1], [work.edge] * 2, [0, 0]
    backward = torch.ops.aten.convolution_backward
    return Job(lambda: backward(dy, x, weight, list(bias.shape), one, edge, one, False, none, 1, wanted))


# What reads ONNX files


@contextmanager
def onnx_file(work: Work) -> Iterator[Path]:
    """The net of a piece of work as a file, which a process of its own writes, so that its memory is not counted here."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "fcn8s.onnx")
        writer = SPAWN.Process(target=_write, args=(work, file), daemon=True)
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError("no ONNX file could be written")
        yield file


def _write(work: Work, file: Path) -> None:
    net = network(work)
    write_onnx(net, file, net.description())


def onnx_forward(work: Work) -> Job:
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    with onnx_file(work) as file:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: batch(work)[0]}
    return Job(lambda: session.run(None, feed))


def openvino_forward(work: Work, precision: str = "f32") -> Job:
    core = import_module("openvino").Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": thread_count()}
    with onnx_file(work) as file:
        model = core.read_model(file)
        model.reshape(work.shape)  # so that it is compiled for this size
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    x = batch(work)[0]
    return Job(lambda: list(request.infer([x], share_inputs=True, share_outputs=True).values()))


LAYER_TASKS = ("layer", "input gradient", "weight gradient")
TORCH_JOBS: dict[str, Callable[..., Job]] = {
    "forward": torch_forward,
    **dict.fromkeys(OPTIMISERS, torch_step),
    **dict.fromkeys(LAYER_TASKS, torch_layer),
}
JOBS: dict[str, dict[str, Callable[[Work], Job]]] = {
    TINYFCN: {
        "forward": forward,
        **dict.fromkeys(OPTIMISERS, step),
        **dict.fromkeys(LAYER_TASKS, layer),
        "product": product,
        "copy": copy,
        "transform": transform,
        "block copy": block_copy,
    },
    COLUMNS: {"forward": forward},
    **{name: {task: partial(job, way=way) for task, job in TORCH_JOBS.items()} for name, way in WAYS.items()},
    ONNX: {"forward": onnx_forward},
    OPENVINO: {"forward": openvino_forward},
    OPENVINO_BF16: {"forward": partial(openvino_forward, precision="bf16")},
}
