"""The benchmark: its arithmetic, what it prints and writes, that all contenders do the same, and what happens when one fails."""

import json
import multiprocessing
import re
import sys
import tracemalloc

import numpy as np
import pytest

from tinyfcn import command, ops, parallel
from tinyfcn.backend import by_pixels
from tinyfcn.bench import __main__ as bench
from tinyfcn.bench import contenders, cost, pictures, profiling, scaling, tables, timing, works
from tinyfcn.bench.contenders import (
    CHANNELS_LAST,
    CLASSES,
    COLUMNS,
    COMPILED,
    JOBS,
    LAYER_TASKS,
    NEEDS,
    ONNX,
    OPENVINO,
    OPENVINO_BF16,
    ROUNDING,
    TF32,
    TINYFCN,
    TORCH,
    TORCH_BF16,
    Work,
)
from tinyfcn.bench.cost import arithmetic, map_sizes
from tinyfcn.errors import InputError
from tinyfcn.models import FCN8s

BY_HAND = """\
conv1_1 3 64 3 698,     conv1_2 64 64 3 698,
conv2_1 64 128 3 349,   conv2_2 128 128 3 349,
conv3_1 128 256 3 175,  conv3_2 256 256 3 175,  conv3_3 256 256 3 175,
conv4_1 256 512 3 88,   conv4_2 512 512 3 88,   conv4_3 512 512 3 88,
conv5_1 512 512 3 44,   conv5_2 512 512 3 44,   conv5_3 512 512 3 44,
fc6 512 4096 7 16,      fc7 4096 4096 1 16,     score_fr 4096 21 1 16,
score_pool4 512 21 1 44, score_pool3 256 21 1 88"""  # layer, channels in and out, side of the kernel, side of the map


def small(task, contenders, weight=(20, 17, 3, 3)):
    layer = task in LAYER_TASKS
    return Work("small work", task, contenders, (1, 17, 12, 13) if layer else (2, 3, 40, 33), 1 / 32, "paper", weight)


@pytest.fixture
def quick(monkeypatch):
    """As little as can be timed."""
    monkeypatch.setattr(bench, "PRODUCT", 64)
    monkeypatch.setattr(bench, "COPY", 64)
    monkeypatch.setattr(timing, "CALL_SECONDS", 0.01)
    monkeypatch.setattr(timing, "WARM_UPS", 1)
    monkeypatch.setattr(timing, "PAUSE", 0)


@pytest.fixture
def call(monkeypatch, capfd):
    """Call the command; returns (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        return command.run(bench.main), *capfd.readouterr()

    return run


@pytest.fixture
def no_others(monkeypatch):
    """As if no other library were installed."""
    monkeypatch.setattr(bench, "installed", lambda name: name not in NEEDS)


def test_arithmetic_of_the_paper_s_network():
    weights, operations = {}, 0
    for entry in BY_HAND.split(","):
        name, *numbers = entry.split()
        c_in, c_out, kernel, side = map(int, numbers)
        weights[f"{name}.weight"] = (c_out, c_in, kernel, kernel)
        operations += 2 * c_in * c_out * kernel**2 * side**2
    assert operations == pytest.approx(360e9, rel=0.01)
    assert arithmetic(weights, "paper", (1, 3, 500, 500)) == operations
    assert arithmetic(weights, "paper", (2, 3, 500, 500)) == 2 * operations


def test_map_sizes_are_those_of_a_forward_pass(monkeypatch):
    seen = {}
    net = FCN8s(CLASSES, 1 / 32, "same", dropout=0.0)
    conv = net.conv

    def spy(name, x, **options):
        y = conv(name, x, **options)
        seen[name] = y.shape[2:]
        return y

    monkeypatch.setattr(net, "conv", spy)
    net.forward(np.zeros((1, 3, 70, 97), np.float32))
    assert seen == map_sizes("same", (70, 97))


def test_layers_are_those_of_vgg16_once_each():
    found = works.layers()
    assert len(found) == 9 * 3 - 1  # of 13 layers, 4 have the shape of another; conv1_1 has no input gradient
    assert sum(w.title.startswith("conv1_1") for w in found) == 2
    assert len({w.title for w in found}) == len(found)


def test_full_has_everything_once():
    options = bench.parser().parse_args(["--full"])
    titles = [work.title for work in bench.chosen(options)]
    assert len(set(titles)) == len(titles) == 4 + 26 + 3
    assert max(map(len, titles)) <= 47


def record(contender, seconds, ratio, work="FCN-8s forward, 1x3x500x500, width 1"):
    return {
        "work": work,
        "task": "forward",
        "shape": (1, 3, 500, 500),
        "contender": contender,
        "median_seconds": seconds,
        "gflops": 361.9 / seconds,
        "of_peak": 1.234,
        "peak_memory": 1234 * 10**6,
        "idle_memory": 984 * 10**6,
        "time_ratio": ratio,
    }


def test_a_row_says_what_tinyfcn_takes_of_a_contender_s_time():
    ours, theirs = record(TINYFCN, 1.25, {TINYFCN: 1, TORCH: 0.625}), record(TORCH, 2, {TINYFCN: 1.6, TORCH: 1})
    cells = ["FCN-8s forward, 1x3x500x500, width 1", "tinyfcn", "1,250.0 ms", "290", "123 %", "1,234 MB", "1.00"]
    row, heading = tables.line(tables.TABLE, ours), tables.line(tables.TABLE)
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == cells
    assert len(row) == len(heading) <= 130
    assert row.index("1,250.0 ms") + len("1,250.0 ms") == heading.index("time") + len("time")
    other = tables.line(tables.TABLE, theirs)
    assert not other.startswith("FCN") and other.endswith("0.62") and heading.endswith("tinyfcn / it")


def test_growth_is_per_pixel():
    row = record(TINYFCN, 1.25, {})
    assert tables.time_per_pixel(row) == pytest.approx(5)
    assert tables.memory_per_pixel(row) == pytest.approx(1)
    assert "5.00 us" in tables.line(tables.GROWTH, row) and "1.00 kB" in tables.line(tables.GROWTH, row)
    assert tables.growth([row, record(TINYFCN, 1.25, {}, "something else")]) == [row]


def test_picture(tmp_path):
    ratios = {TINYFCN: 1, TORCH: 0.5, ONNX: 0.7}
    found = [
        record(name, 2, ratios, work=works.forward(side).title)
        for side in works.SIDES
        for name in (TINYFCN, COLUMNS, TORCH, ONNX)
    ]
    pictures.draw(found, tmp_path / "all.png")
    pictures.draw(found[:1], tmp_path / "one.png")
    pictures.draw([record(TINYFCN, 2, {TINYFCN: 1, TORCH: 0.5}, "a layer")], tmp_path / "ratios.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_a_run_prints_and_writes_its_numbers(call, quick, no_others, tmp_path):
    file = tmp_path / "numbers.json"
    status, out, err = call("--width", 1 / 32, "--size", 20, "--repeats", 3, "--json", file)
    assert status == 0, err
    assert f"{parallel.thread_count()} threads" in out and f"NumPy {np.__version__}" in out and "peak: " in out
    assert "FCN-8s forward, 1x3x20x20, width 0.03125" in out and "FCN-8s training" in out and "OpenVINO not installed" in out
    found = json.loads(file.read_text())
    assert found["machine"]["threads"] == parallel.thread_count() and found["machine"]["peak_gflops"] > 0
    assert found["machine"][TORCH] is None
    assert [(r["task"], r["contender"]) for r in found["results"]] == [
        ("forward", TINYFCN),
        ("forward", COLUMNS),
        ("step", TINYFCN),
    ]
    forward, _, step = found["results"]
    for r in found["results"]:
        assert len(r["seconds"]) == 3 and sorted(r["seconds"])[1] == r["median_seconds"] > 0
        assert r["of_peak"] == pytest.approx(r["gflops"] / found["machine"]["peak_gflops"])
        assert r["time_ratio"][r["contender"]] == 1
    operations = [r["gflops"] * r["median_seconds"] for r in (forward, step)]
    assert operations[1] == pytest.approx(3 * operations[0])


def test_a_picture_of_nothing_gives_one_line(call, no_others, tmp_path):
    status, _, err = call("--plot", tmp_path / "empty.png")
    assert status == 2 and err.count("\n") == 1 and "--growth" in err


def test_a_contender_that_fails_gives_one_line(call, quick, monkeypatch):
    broken = Work("broken work", "step", (TINYFCN,), (1, 4, 20, 20), 1 / 32)
    monkeypatch.setattr(bench, "chosen", lambda options: [broken])
    status, _, err = call("--repeats", 1)
    last = err.splitlines()[-1]  # after the progress bar
    assert status == 2 and "Traceback" not in err
    assert last.endswith("tinyfcn, broken work: ValueError: FCN8s: x must be images (N, 3, H, W), got shape (1, 4, 20, 20)")


def test_a_contender_that_is_killed_gives_one_line():
    with timing.contender(TINYFCN, small("forward", (TINYFCN,))) as ask:
        assert ask()[0] > 0
        (process,) = multiprocessing.active_children()
        process.kill()
        with pytest.raises(ValueError, match="tinyfcn, small work: its process was killed by signal 9, most likely for want"):
            ask()


def test_another_contender_that_fails_is_left_out(quick, capfd):
    (measured,) = timing.measure(Work("a product", "product", (TINYFCN, ONNX), (64,)), 1)
    assert measured.contender == TINYFCN and measured.arithmetic == 2 * 64**3
    assert capfd.readouterr().err == "left out: ONNX Runtime, a product: KeyError: 'product'\n"


def test_no_process_is_left():
    assert not multiprocessing.active_children()


def test_the_gradients_timed_are_those_of_the_convolution():
    by_task = {task: small(task, (TINYFCN,)) for task in LAYER_TASKS}
    x, weight, bias, dy = contenders.layer_arrays(by_task["layer"])
    y, cache = ops.conv2d_forward(x, weight, bias, padding=1)
    dx, dweight, _ = ops.conv2d_backward(dy, cache)
    found = [contenders.layer(by_task[task]).run() for task in LAYER_TASKS]
    for (array, expected), position in zip(zip(found, (y, dx, dweight), strict=True), (0, 0, 1), strict=True):
        np.testing.assert_allclose(array[position], expected, rtol=0, atol=1e-4 * abs(expected).max())


# The others do the same work


def same(found, expected, tolerance=1e-5):
    assert abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("name, padding", [(TORCH, "paper"), (TORCH, "same"), (CHANNELS_LAST, "paper"), (TORCH_BF16, "same")])
def test_scores_of_pytorch(name, padding):
    needs(name)
    work = small("forward", (name,))._replace(padding=padding)
    expected = contenders.forward(work).run()
    assert expected.std() > 0
    same(JOBS[name]["forward"](work).run().float().numpy(), expected, 0.05 if name in ROUNDING else 1e-5)


@pytest.mark.parametrize(
    "name, task, rate, hidden",
    [
        (TORCH, "step", 1.0, None),
        (CHANNELS_LAST, "step", 1.0, None),
        (TORCH, "fine-tune", 0.01, 24),
        (TORCH_BF16, "step", 1.0, None),
    ],
)
def test_training_of_pytorch(monkeypatch, name, task, rate, hidden):
    needs(name)
    monkeypatch.setattr(contenders, "LEARNING_RATE", rate)
    work = small(task, (TINYFCN, name))._replace(padding="same", hidden=hidden)
    ours, theirs = contenders.step(work).run, JOBS[name][task](work).run
    losses = np.array([(float(ours()), float(theirs())) for _ in range(5)])
    tolerance = 1e-2 if name in ROUNDING else 1e-6 if task == "step" else 1e-4
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=tolerance)
    assert abs(losses[-1] - losses[0]).min() > 1e-3  # the steps are large enough to tell


@pytest.mark.parametrize("edge", [1, 4])
def test_layers_of_pytorch(edge):
    pytest.importorskip("torch")
    for task in LAYER_TASKS if edge == 1 else ("layer", "weight gradient"):
        work = small(task, (TINYFCN, TORCH))._replace(edge=edge)
        ours, theirs = JOBS[TINYFCN][task](work).run(), JOBS[TORCH][task](work).run()
        if task == "layer":
            same(theirs.numpy(), ours[0])
        else:
            position = 1 if task == "weight gradient" else 0
            same(theirs[position].numpy(), ours[0 if task == "input gradient" else 1], 1e-4)


@pytest.mark.parametrize("name", [ONNX, OPENVINO, OPENVINO_BF16])
def test_scores_of_what_reads_onnx(name):
    needs(name)
    work = small("forward", (name,))
    same(JOBS[name]["forward"](work).run()[0], contenders.forward(work).run(), 0.05 if name in ROUNDING else 1e-5)


def needs(name):
    for module in NEEDS[name]:
        pytest.importorskip(module)


def test_who_takes_part(monkeypatch, capfd, tmp_path):
    """By default float32 that starts quickly; what the pattern finds; bf16 only where the processor multiplies in it."""
    monkeypatch.setattr(bench, "installed", lambda name: name != ONNX)
    monkeypatch.setattr(contenders, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("CXX", sys.executable)

    def names(pattern=None, device="cpu", work=None):
        (entered,) = bench.entered([work or works.forward(500)], device, pattern and re.compile(pattern))
        return set(entered.contenders[1:]) if entered.contenders[0] == TINYFCN else None

    assert names() == {COLUMNS, TORCH, CHANNELS_LAST, OPENVINO}
    assert names(device="gpu") == {COLUMNS, TORCH, TF32}
    assert names(work=works.fine_tuning()) == {TORCH}
    assert names("nobody") == set() and not capfd.readouterr().err
    assert names("bf16|compiled") == {COMPILED}
    reason = "the processor has no bf16 instructions, and would emulate them"
    assert capfd.readouterr().err == f"left out: {TORCH_BF16}: {reason}\nleft out: {OPENVINO_BF16}: {reason}\n"
    contenders.CPUINFO.write_text("flags : avx512f avx512_bf16")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert names("bf16|compiled") == {TORCH_BF16, OPENVINO_BF16}
    assert capfd.readouterr().err == f"left out: {COMPILED}: there is no C++ compiler\n"


# What it should cost


class Watched(np.ndarray):
    """An array of which `calls` notes every function of NumPy's, what it reads, and what it writes."""

    calls: list[tuple[np.ufunc, list[np.ndarray], np.ndarray]] = []

    def __array_ufunc__(self, function, method, *inputs, out=(), **options):
        inputs, out = (tuple(np.asarray(a) for a in arrays) for arrays in (inputs, out))
        y = getattr(function, method)(*inputs, **options, **({"out": out} if out else {}))
        self.calls.append((function, [a for a in inputs if a.ndim], y))
        return y.view(Watched)


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Watched, "calls", [])
    return Watched.calls


def test_the_layers_counted_are_those_that_run(monkeypatch):
    net, seen = FCN8s(CLASSES, 1 / 64, "same", dropout=0.0), {}

    def spy(name, forward, x, *arguments, apply=net.apply, **options):
        y = apply(name, forward, x, *arguments, **options)
        seen[name] = x.shape, y.shape, options.get("relu", False)
        return y

    monkeypatch.setattr(net, "apply", spy)
    net.forward(np.zeros((2, 3, 75, 97), np.float32))
    weights = {name: p.shape for name, p in net.params.items()}
    counted = {layer.name: (layer.inputs, layer.outputs, layer.relu) for layer in cost.layers(weights, (2, 3, 75, 97))}
    assert counted == {name: seen[name] for name in counted}
    assert set(seen) - set(counted) == {"upscore2", "upscore_pool4", "upscore8", "score_pool4.add", "score_pool3.add"}


def test_a_winograd_layer_costs_what_it_does_by_hand(monkeypatch):
    """34 > 40 channels with ReLU, 23x18 pixels: 6x5 tiles in one block."""
    monkeypatch.setenv("TINYFCN_THREADS", "1")
    layer = cost.Layer("layer", (1, 34, 23, 18), (1, 40, 23, 18), kernel=3, padding=1, relu=True)
    assert layer.way is ops.winograd
    pairs, kernels, gate = 34 * 40, 34 * 40 * 2 * 36 * 9, 23 * 18 * 40
    assert list(cost.forward(layer, 1)) == [
        2 * 36 * 30 * pairs,
        30 * (34 * 720 + 40 * 480) + kernels,
        30 * (34 * (16 + 36) + 40 * (36 + 16 + 16 + 16)),
        30 * 16 * (34 + 40) + pairs * (3 * 9 + 36 + 3 * 36),
    ]
    of_weights, of_both = (cost.backward(layer, 1, need_dx) for need_dx in (False, True))
    assert list(of_weights) == [
        2 * 36 * 30 * pairs,
        30 * (40 * 720 + 34 * 480) + kernels,
        30 * (40 * (16 + 36) + 34 * (16 + 36)) + 1.5 * gate,
        30 * 16 * (34 + 40) + pairs * (36 + 36 + 9) + 3 * gate,
    ]
    assert list(of_both - of_weights) == [
        2 * 36 * 30 * pairs,
        30 * 34 * 480 + kernels,
        30 * (40 * 36 + 34 * (36 + 16)),
        30 * 16 * 34 + pairs * (3 * 9 + 36 + 3 * 36),
    ]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "way, c_in, c_out, size, kernel",
    [
        ("winograd", 24, 32, (61, 50), 3),
        ("winograd", 64, 128, (22, 20), 3),
        ("columns", 3, 32, (40, 50), 3),
        ("columns", 32, 21, (40, 60), 1),
        ("taps", 256, 256, (3, 4), 7),
    ],
)
def test_products_are_as_many_as_the_operation_makes(monkeypatch, calls, threads, way, c_in, c_out, size, kernel):
    """Winograd's outermost tiles share no transforms, and biases' gradients are products here: hence the few percent."""
    layer = cost.Layer("fc6" if way == "taps" else "conv", (2, c_in, *size), (2, c_out, *size), kernel, kernel // 2)
    assert layer.way.__name__ == f"tinyfcn.ops.{way}"
    matmul, matrices = np.matmul, ops.winograd.matrices
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    monkeypatch.setattr(np, "matmul", lambda a, b, **options: matmul(a.view(Watched), b, **options))
    monkeypatch.setattr(ops.winograd, "matrices", lambda *how: [matrix.view(Watched) for matrix in matrices(*how)])
    rng = np.random.default_rng(0)
    x, weight, dy = (rng.standard_normal(shape, np.float32) for shape in (layer.inputs, layer.weights, layer.outputs))
    weight = by_pixels(weight) if way == "taps" else weight  # as the network has them
    x, weight, dy = (array.view(Watched) for array in (x, weight, dy))

    def operations():
        done = sum(2 * y.size * inputs[0].shape[-1] for function, inputs, y in calls if function is matmul)
        calls.clear()
        return done

    _, cache = ops.conv2d_forward(x, weight, padding=layer.padding)
    expected = cost.forward(layer, threads)
    assert operations() == pytest.approx(expected[0] + expected[1], rel=0.06)
    for need_dx in False, True:
        ops.conv2d_backward(dy, cache, need_dx=need_dx)
        expected = cost.backward(layer, threads, need_dx)
        assert operations() == pytest.approx(expected[0] + expected[1], rel=0.06)


def test_taps_meet_what_lies_inside_the_map():
    """A kernel of 7x7 with padding 3 on a 4x4 map: in each direction 16 of 28 pairs of tap and output, as its module says."""
    layer = cost.Layer("fc6", (1, 256, 4, 4), (1, 128, 4, 4), kernel=7, padding=3)
    assert layer.way is ops.taps
    assert cost.forward(layer, 1)[0] == 2 * 256 * 128 * 16 * 16


@pytest.mark.parametrize("side", [10, 100])
def test_upsampling_multiplies_as_counted(monkeypatch, calls, side):
    """Eightfold; bands end in the middle of a pixel's triangle, hence the few percent."""
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, **options: matmul(a.view(Watched), b, **options))
    x, dy = (np.ones((2, 3, length, length), np.float32) for length in (side, 8 * side))
    expected = cost.upsampling(x.shape, dy.shape)[0]
    _, cache = ops.upsample_bilinear_forward(x, 16, 8, (slice(4, -4), slice(4, -4)))
    for _ in "forward", "backward":
        assert sum(2 * y.size * a.shape[-1] for _, (a, _), y in calls) == pytest.approx(expected, rel=0.1)
        calls.clear()
        ops.upsample_bilinear_backward(dy, cache)


@pytest.mark.parametrize("task", ["step", "fine-tune"])
def test_an_update_reads_and_writes_as_counted(calls, task):
    optimiser, size = contenders.OPTIMISERS[task](1.0), 1000
    w, g = (np.ones(size, np.float32).view(Watched) for _ in range(2))
    optimiser.step({"layer.weight": w}, {"layer.weight": g})
    moved = sum(sum(a.size for a in inputs) + y.size for _, inputs, y in calls)
    assert moved == size * sum(cost.UPDATES[len(optimiser.suffixes)])


@pytest.mark.parametrize(
    "task, images, side, width, threads",
    [("forward", 2, 96, 1 / 4, 1), ("forward", 1, 400, 1 / 8, 2), ("step", 2, 96, 1 / 8, 2), ("fine-tune", 2, 96, 1 / 8, 1)],
)
def test_memory_is_what_numpy_allocates(monkeypatch, task, images, side, width, threads):
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    tracemalloc.start()
    work = scaling.point(task, side, images, width, threads)
    run = JOBS[TINYFCN][task](work).run
    tracemalloc.reset_peak()  # what it took to draw the parameters
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    _, expected = scaling.predict(work, cost.Machine(1, 1, 1, 1), scaling.Fixed(0.0, 0))
    assert peak == pytest.approx(expected, rel=0.04)


def test_seconds_are_amounts_over_what_the_machine_does():
    machine = cost.Machine(peak=128, rate=8, cache=32, memory=4)
    assert machine.seconds(256 * cost.PRODUCTS + 24 * cost.TRANSFORMS + 32 * cost.PASSES + 5 * cost.TRAFFIC) == 2 + 3 + 4 + 5


def test_scaling_prints_and_writes_the_points_and_the_model(call, monkeypatch, tmp_path):
    """On a machine that does one operation or byte a second."""

    def measure(work, repeats, tick):
        amounts = (1, 1) if work.title in scaling.SIZES else (0, 0)
        return [timing.Measurement(work, TINYFCN, (1.0, 3.0, 2.0), *amounts, 10**9, None)]

    monkeypatch.setattr(scaling, "measure", measure)
    monkeypatch.setattr(scaling, "SIDES", (scaling.SIDE, 2000))
    monkeypatch.setattr(scaling, "BATCHES", (1, 2))
    status, out, err = call("--scaling", "--repeats", 3, "--json", tmp_path / "s.json", "--plot", tmp_path / "s.png")
    assert status == 0, err
    found = json.loads((tmp_path / "s.json").read_text())
    titles = [r["work"] for r in found["results"]]
    assert len(set(titles)) == len(titles) == 2 * (len({1, parallel.thread_count()}) * 2 + 1 + 3)
    assert set(found["machine"]["by_threads"]) == {str(threads) for threads in {1, parallel.thread_count()}}
    assert all(title in out for title in titles) and f"{len(titles)} of {len(titles)} are more than 1.5 times off" in out
    largest = max(found["results"], key=lambda r: r["model_seconds"])
    assert largest["median_seconds"] == 2 and largest["task"] == "step" and largest["shape"][2] == 2000
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("task, amount", [("transform", 100 * 2 * 6 * 6 * 16 * 8), ("block copy", 100 * 2 * 4 * 1024)])
def test_what_measures_the_cache_counts_what_it_does(monkeypatch, task, amount):
    monkeypatch.setenv("TINYFCN_THREADS", "2")
    job = JOBS[TINYFCN][task](Work("", task, (TINYFCN,), (8 if task == "transform" else 1024,)))
    job.run()
    assert max(job.arithmetic, job.traffic) == amount


# The profile


def test_a_profile_on_a_cpu_accounts_for_the_whole_step():
    found = profiling.profile(small("step", (TINYFCN,)))
    names = [row.name for row in found.rows]
    assert {"conv2d_forward", "conv2d_backward", "max_pool2d_backward", "update of parameters", "all else"} <= set(names)
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds)
    calls = {row.name: row.calls for row in found.rows}
    assert calls["conv2d_forward"] == 18 and calls["max_pool2d_forward"] == 5 and calls["update of parameters"] == 36
    assert [row.seconds for row in found.rows] == sorted((row.seconds for row in found.rows), reverse=True)


def test_a_profile_on_a_gpu_counts_what_ran_there():
    """The trace as PyTorch's profiler writes it: calls of the host stand in it too, and do not count."""
    steps = profiling.STEPS
    events = [{"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0.0, "dur": 9.0}, {"ph": "M", "name": "process_name"}]
    for k in range(steps):
        events += [
            {"cat": "kernel", "name": "product", "ts": 100.0 * k, "dur": 30.0, "args": {"grid": [1, 1, 1]}},
            {"cat": "kernel", "name": "product", "ts": 100.0 * k + 40, "dur": 20.0},
            {"cat": "gpu_memcpy", "name": "Memcpy HtoD", "ts": 100.0 * k + 70, "dur": 10.0, "args": {"bytes": 3_000_000}},
        ]
    seconds, rows = profiling.rows_of(events)
    assert seconds == pytest.approx((100 * (steps - 1) + 80) / 1e6 / steps)
    assert rows == [
        profiling.Row("product", pytest.approx(50e-6), 2, 0),
        profiling.Row("Memcpy HtoD", pytest.approx(10e-6), 1, 3_000_000),
    ]
    text = profiling.text(profiling.Profile(small("step", (TINYFCN,))._replace(device="gpu"), seconds, rows), most=1)
    assert "3 launches and copies, 3.0 MB" in text and text.endswith("1 more")
    with pytest.raises(InputError, match="saw no kernel"):
        profiling.rows_of(events[:2])


def test_profile_command(call, tmp_path):
    status, out, err = call("--profile", "--width", "0.03125", "--size", "40", "--json", tmp_path / "p.json")
    assert status == 0 and "conv2d_backward" in out and not err
    (step,) = json.loads((tmp_path / "p.json").read_text())["profiles"]
    assert step["work"].startswith("FCN-8s training") and step["rows"][0]["seconds"] > 0
    assert call("--profile", "--only", "forward")[::2] == (
        2,
        "error: --profile: no training step is among the pieces of work\n",
    )


def test_only_what_a_pattern_finds(monkeypatch):
    def chosen(*arguments):
        return [work.title for work in bench.chosen(bench.parser().parse_args(arguments))]

    assert chosen("--full", "--only", "fine|8x3") == [
        "FCN-8s training, 8x3x128x128, width 0.25, same",
        "FCN-8s fine-tuning, 2x3x224x304, hidden 512",
    ]
    with pytest.raises(InputError, match="no piece of work"):
        chosen("--only", "nothing")
