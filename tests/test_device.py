"""Networks, optimisers, scores, training and commands on each device that is no CPU: NumPy's numbers, and nothing crosses but
what must. Single operations: tests/ops, on all devices."""

import csv
import gc
import json
from contextlib import nullcontext

import devices
import emulated
import numpy as np
import pytest
from devices import get, nothing_crosses, put
from networks import gradient_functions

from tinyfcn import backend, command, report, train, training
from tinyfcn.bench import cost, timing
from tinyfcn.bench.contenders import JOBS, LAYER_TASKS, TINYFCN, Work
from tinyfcn.data import PREPROCESSING, loader, normalise
from tinyfcn.gradcheck import check_gradient
from tinyfcn.inference import predict
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import VGG16, FCN8s, FCN8sAtOnce, FCN16s, FCN32s, FCN32sAlexNet, FCN32sCaffeNet, border
from tinyfcn.ops import upsample, winograd
from tinyfcn.optim import SGD, Adam

VGG_NETS = (FCN32s, FCN16s, FCN8s, FCN8sAtOnce)


@pytest.fixture(params=[devices.GPU])
def xp(request):
    with devices.device(request.param) as module:
        yield module


@pytest.fixture
def few_bytes(xp):
    """Let the device have that many more bytes."""
    pool = xp.get_default_memory_pool()

    def limit(size):
        gc.collect()
        pool.free_all_blocks()
        pool.set_limit(size=pool.total_bytes() + size)

    yield limit
    pool.set_limit(size=0)  # none


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def twins(kind, xp, *arguments, **options):
    """The same network on the host and on the device, with no parameter 0."""
    nets = kind(*arguments, **options), kind(*arguments, **options, xp=xp)
    for name, p in nets[0].params.items():
        p += 0.1 * draw(*p.shape, dtype=p.dtype)
        nets[1].params[name][...] = put(p)
    return nets


def agree(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(get(found[name]), value, rtol=0, atol=tolerance * max(abs(value).max(), 1e-30), err_msg=name)


# Networks


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("kind", [*VGG_NETS, FCN32sAlexNet, FCN32sCaffeNet], ids=lambda kind: kind.__name__)
def test_scores_and_all_gradients_are_those_of_the_cpu_and_nothing_crosses(xp, kind, padding):
    here, there = twins(kind, xp, 3, 1 / 32, padding, dropout=0, learn_upsampling="all", dtype=np.float64)
    x, dscores = draw(2, 3, 41, 50), draw(2, 3, 41, 50, seed=1)
    expected = {"scores": here.forward(x, training=True), "dx": here.backward(dscores, need_dx=True)} | here.grads
    x, dscores = put(x), put(dscores)
    there.forward(x)  # constants cross once
    with nothing_crosses():
        found = {"scores": there.forward(x, training=True), "dx": there.backward(dscores, need_dx=True)} | there.grads
    agree(found, expected)


def test_winograd_and_taps_at_channels_where_they_are_taken(xp):
    here, there = twins(FCN8s, xp, 3, 0.25, "same", dropout=0, dtype=np.float64)
    x, dscores = draw(1, 3, 70, 66), draw(1, 3, 70, 66, seed=1)
    expected = {"scores": here.forward(x, training=True), "dx": here.backward(dscores, need_dx=True)} | here.grads
    found = {"scores": there.forward(put(x), training=True), "dx": there.backward(put(dscores), need_dx=True)} | there.grads
    agree(found, expected)


def test_gradient_check_of_a_whole_network(xp):
    net = FCN8s(3, width=1 / 32, padding="same", dropout=0, dtype=np.float64, xp=xp)
    for name, p in net.params.items():
        p += put(0.1 * draw(*p.shape, seed=len(name)))
    forward, backward, names = gradient_functions(net)
    check_gradient(forward, backward, put(draw(1, 3, 17, 38)), *net.params.values(), names=names, directions=2, step=1e-7)


def test_predicted_classes_and_a_classifier(xp):
    here, there = twins(FCN8s, xp, 4, 1 / 32, "same", dtype=np.float64)
    x = draw(2, 3, 33, 40)
    labels = there.predict(put(x))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(get(labels), here.predict(x))
    here, there = twins(VGG16, xp, width=1 / 64, num_classes=5, dropout=0)
    x = draw(1, 3, 224, 224, dtype=np.float32)
    np.testing.assert_allclose(get(there.forward(put(x))), here.forward(x), rtol=1e-4, atol=1e-5)


def test_probabilities_of_tiles_come_to_the_host(xp):
    here, there = twins(FCN8s, xp, 4, 1 / 64, "same", dtype=np.float64)
    picture = np.random.default_rng(0).integers(0, 256, (33, 150, 3), np.uint8)
    expected, found = np.zeros((4, 33, 150)), np.zeros((4, 33, 150), np.float32)
    options = {"zoom": 0.9, "tile": 96, "margin": 32}
    labels = predict(there, picture, **options, probabilities=found)
    np.testing.assert_array_equal(get(labels), predict(here, picture, **options, probabilities=expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_dropout_draws_on_the_device(xp):
    net = FCN8s(3, 1 / 16, "same", dropout=0.5, xp=xp)
    for name, p in net.params.items():
        p += put(0.1 * draw(*p.shape, seed=len(name), dtype=np.float32))
    x = put(draw(1, 3, 40, 40, dtype=np.float32))
    net.forward(x)  # constants cross once
    with nothing_crosses():
        a, b = net.forward(x, training=True), net.forward(x, training=True)
    assert (get(a) != get(b)).any() and (get(net.forward(x)) == get(net.forward(x))).all()


# Training


@pytest.mark.parametrize("options", [{}, {"freeze_trunk": True}, {"learn_upsampling": "all"}], ids=str)
@pytest.mark.parametrize("optimiser", [SGD, Adam])
def test_steps_give_the_cpu_s_parameters_and_nothing_crosses(xp, optimiser, options):
    here, there = twins(FCN8s, xp, 3, 1 / 32, "same", dropout=0, dtype=np.float64, **options)
    one, two = (optimiser(1e-3, weight_decay=1e-2) for _ in range(2))
    x, labels = draw(2, 3, 40, 50), np.random.default_rng(0).integers(0, 4, (2, 40, 50)).astype(np.uint8)
    labels[labels == 3] = 255
    there_x, there_labels = put(x), put(labels)
    for step in range(3):
        expected = training.train_step(here, one, x, labels)
        with nothing_crosses() if step else nullcontext():
            loss = training.train_step(there, two, there_x, there_labels)
        assert loss.shape == () and float(get(loss)) == pytest.approx(float(expected), rel=1e-10)
    agree(there.params, here.params)
    agree(two.state, one.state)


def test_a_label_that_is_no_class_makes_the_loss_nan_without_waiting(xp):
    net = FCN8s(3, 1 / 32, "same", xp=xp)
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[0, 3, 5] = 3
    loss = training.train_step(net, SGD(0.1), put(draw(1, 3, 40, 40, dtype=np.float32)), put(labels))
    assert np.isnan(float(get(loss)))


@pytest.mark.parametrize("optimiser", [SGD, Adam])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 3, 500, 500), {"hidden": 64}),
        ((8, 3, 128, 128), {"width": 0.25, "padding": "same"}),
        ((4, 3, 96, 96), {"width": 0.125, "padding": "same"}),
    ],
    ids=["paper", "small", "default"],
)
def test_a_step_is_few_launches(xp, shape, options, optimiser):
    """Each costs the host some forty microseconds, which for small maps is all that a step takes."""
    if not emulated.started():
        pytest.skip("only the emulated GPU counts launches")
    with emulated.without_computing():
        net, rule = FCN8s(21, dropout=0, xp=xp, **options), optimiser(1e-3)
        x, labels = xp.zeros(shape, np.float32), xp.zeros((shape[0], *shape[2:]), np.uint8)
        training.train_step(net, rule, x, labels)
        with emulated.counting() as counts:
            training.train_step(net, rule, x, labels)
    for kept in upsample._spread, winograd.matrices, border._repeated, border._first:
        kept.cache_clear()  # of what was made while nothing was computed
    assert counts.launches + counts.products + counts.memsets <= 400
    assert not counts.crossed


@pytest.mark.parametrize("name", PREPROCESSING)
def test_pictures_are_prepared_where_they_are(xp, name):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    np.testing.assert_allclose(get(normalise(put(pictures), name)), normalise(pictures, name), rtol=0, atol=1e-5)


def test_counts_stay_on_the_device_until_somebody_asks(xp):
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 5, (3, 2, 6, 7)), rng.integers(0, 4, (3, 2, 6, 7)).astype(np.uint8)
    labels[labels == 4] = 255
    here, there = ConfusionMatrix(4), ConfusionMatrix(4)
    pairs = [(put(label), put(guess)) for label, guess in zip(labels, guesses, strict=True)]
    with nothing_crosses():
        for pair in pairs:
            there.update(*pair)
    for label, guess in zip(labels, guesses, strict=True):
        here.update(label, guess)
    np.testing.assert_array_equal(there.counts, here.counts)
    assert there.scores() == here.scores()
    there.update(labels[0], guesses[0])  # of the host
    here.update(labels[0], guesses[0])
    np.testing.assert_array_equal(there.counts, here.counts)
    there.update(put(np.array([0, 7, 255])), put(np.array([9, 0, 9])))
    with pytest.raises(ValueError, match="2 pixels have a label or prediction not among the 4 classes"):
        there.scores()


def run(capfd, *arguments):
    """`python -m tinyfcn.train`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train", *map(str, arguments)])
        status = command.run(train.main)
    return status, *capfd.readouterr()


SMALL = ("--subset", 12, "--batch-size", 4, "--evaluations", 1, "--width", 1 / 16, "--size", 48)


@pytest.fixture
def few_pictures(monkeypatch):
    """Scores are those of five pictures."""
    monkeypatch.setattr(
        loader, "open_dataset", lambda *a, f=loader.open_dataset, **k: f(*a[:2], a[2] if len(a) > 2 else 5, *a[3:], **k)
    )


def test_an_epoch_is_that_of_the_cpu(xp, few_pictures, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "REPORT_EVERY", 2)
    found = {}
    for device in "cpu", "gpu":
        status, out, err = run(capfd, *SMALL, "--epochs", 1, "--device", device, "--out", tmp_path / device)
        assert status == 0, err
        with (tmp_path / device / "log.csv").open() as file:
            rows = [[float(row[key]) for key in ("step", "loss")] for row in csv.DictReader(file)]
        found[device] = rows, json.loads((tmp_path / device / "metrics.json").read_text())
        assert out.startswith("NumPy" if device == "cpu" else "CuPy")
    np.testing.assert_allclose(found["gpu"][0], found["cpu"][0], rtol=1e-4)
    assert len(found["cpu"][0]) == 2
    assert found["gpu"][1]["pixel_accuracy"] == pytest.approx(found["cpu"][1]["pixel_accuracy"], abs=2e-3)
    status, out, err = run(capfd, "--resume", tmp_path / "gpu", "--steps", 4)
    assert status == 0 and out.startswith("CuPy"), err


def test_a_step_of_the_loop_takes_pictures_and_labels_to_the_device_and_nothing_else(
    xp, few_pictures, capfd, tmp_path, monkeypatch
):
    if not emulated.started():
        pytest.skip("only the emulated GPU counts what crosses")
    seen = []
    step = training.train_step

    def counted(*arguments):
        seen.append([counts.to_device, counts.to_host, counts.synchronisations])
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", counted)
    monkeypatch.setattr(training, "REPORT_EVERY", 4)
    with emulated.counting() as counts:
        status, _, err = run(capfd, *SMALL, "--steps", 8, "--device", "gpu", "--out", tmp_path / "run")
    assert status == 0, err
    without, with_report = [2, 0, 0], [2, 1, 1]  # to the device, to the host, and waits; in the first step, constants cross too
    assert np.diff(seen, axis=0)[1:].tolist() == [without, without, with_report, without, without, without]


def test_a_full_device_is_one_line_that_says_what_to_lower(few_bytes, few_pictures, capfd, tmp_path):
    few_bytes(4 << 20)  # enough for the net, and not for a step
    status, _, err = run(
        capfd, *SMALL, "--batch-size", 12, "--size", 96, "--steps", 2, "--device", "gpu", "--out", tmp_path / "run"
    )
    assert status == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith(
        "error: out of memory: lower --batch-size, --size, --max-side, --tile or --width (Out of memory"
    )


# The device itself


def test_what_computes_is_told(xp):
    words = backend.describe_device(xp)
    assert words.startswith(f"CuPy {xp.__version__}, ") and words.isprintable()


def test_a_gpu_is_chosen_where_one_answers(xp):
    assert backend.why_no_gpu() is None
    assert backend.choose_device() is xp and backend.choose_device("gpu") is xp
    assert backend.choose_device("cpu") is np


def test_arrays_of_cupy_are_known_and_not_mixed_with_others(xp):
    assert backend.array_module(xp.ones(1)) is xp
    with pytest.raises(TypeError, match="one module, got NumPy and CuPy arrays together"):
        backend.array_module(np.ones(1), xp.ones(1))


def test_moving_between_host_and_device(xp):
    x = np.ones(3)
    moved = backend.to_device(x, xp)
    assert isinstance(moved, xp.ndarray)
    np.testing.assert_array_equal(backend.to_host(moved), x)


def test_a_full_device_does_not_answer(few_bytes, xp):
    few_bytes(0)
    small = []
    with pytest.raises(MemoryError):  # what is left in blocks that are partly taken
        while True:
            small.append(xp.empty(1))
    assert backend.why_no_gpu().startswith("the device's memory is full: Out of memory")
    assert backend.choose_device("auto") is np
    assert "(no GPU: the device's memory is full" in report.device_line(np, "auto")


# The benchmark


@pytest.mark.parametrize("task", ["forward", "step", *LAYER_TASKS, "product", "copy"])
def test_the_benchmark_s_work_is_the_same_on_the_device(xp, task):
    shapes = {"product": (48,), "copy": (1000,)} | dict.fromkeys(("forward", "step"), (2, 3, 40, 40))
    work = Work("small", task, (TINYFCN,), shapes.get(task, (2, 8, 12, 9)), 1 / 32, "same", (6, 8, 3, 3))
    jobs = [JOBS[TINYFCN][task](work._replace(device=device)) for device in ("cpu", "gpu")]
    assert jobs[0][1:] == jobs[1][1:] and jobs[0].arithmetic + jobs[0].traffic > 0
    expected, found = (job.run() for job in jobs)
    first = {"layer": 0, "input gradient": 0, "weight gradient": 1}.get(task)
    if task != "copy":
        expected, found = (expected, found) if first is None else (expected[first], found[first])
        np.testing.assert_allclose(get(found), expected, rtol=1e-4, atol=1e-4)
    clock = timing.clock_of(TINYFCN, "gpu")
    assert clock.seconds(jobs[1].run, 2) > 0 and clock.memory() > 0


def test_traffic_counts_each_array_once():
    net = FCN8s(21, 1 / 16, "same")
    shapes = {name: p.shape for name, p in net.params.items()}
    expected = sum(p.size for name, p in net.params.items() if name.endswith("weight"))
    for name, side in cost.map_sizes("same", (64, 64)).items():
        filters, channels = shapes[f"{name}.weight"][:2]
        expected += 3 * (filters + channels) * side[0] * side[1]
    assert cost.traffic(shapes, "same", (3, 3, 64, 64)) == 4 * expected
