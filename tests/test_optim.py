import numpy as np
import pytest
from devices import ON_CPU, SGD, Adam

from tinyfcn import ops, optim, parallel
from tinyfcn.models import FCN8s

pytestmark = pytest.mark.usefixtures("device")


def gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    return [{"a.weight": rng.standard_normal((2, 3)), "a.bias": rng.standard_normal(2)} for _ in range(steps)]


def parameters():
    rng = np.random.default_rng(9)
    return {"a.weight": rng.standard_normal((2, 3)), "a.bias": rng.standard_normal(2)}


def test_sgd_follows_the_published_rule_entry_by_entry():
    params, lr, momentum, decay = parameters(), 0.1, 0.9, 0.01
    optimiser = SGD(lr, momentum, decay)
    expected = {name: [(w, 0.0) for w in p.ravel()] for name, p in params.items()}
    for grads in gradients(5):
        optimiser.step(params, grads)
        for name, entries in expected.items():
            bias = name.endswith("bias")
            for k, (w, v) in enumerate(entries):
                v = momentum * v - lr * (2 if bias else 1) * (grads[name].ravel()[k] + (0 if bias else decay) * w)
                entries[k] = (w + v, v)
    for name, entries in expected.items():
        assert np.allclose(params[name].ravel(), [w for w, _ in entries], rtol=1e-13)


def test_adam_follows_the_published_rule_entry_by_entry():
    params, lr, decay = parameters(), 0.01, 0.1
    optimiser = Adam(lr, weight_decay=decay)
    expected = {name: [(w, 0.0, 0.0) for w in p.ravel()] for name, p in params.items()}
    for t, grads in enumerate(gradients(5), 1):
        optimiser.step(params, grads)
        for name, entries in expected.items():
            rate = lr * (2 if name.endswith("bias") else 1)
            for k, (w, m, v) in enumerate(entries):
                g = grads[name].ravel()[k]
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                w *= 1 - rate * (0 if name.endswith("bias") else decay)
                w -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
                entries[k] = (w, m, v)
    for name, entries in expected.items():
        assert np.allclose(params[name].ravel(), [w for w, _, _ in entries], rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_pieces_and_threads_change_not_a_bit(kind, threads, monkeypatch):
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((7, 13)), {"w": rng.standard_normal((7, 13))}
    whole, pieces = {"w": start.copy()}, {"w": start.copy()}
    one, other = kind(0.1, weight_decay=0.1), kind(0.1, weight_decay=0.1)
    for _ in range(3):
        one.step(whole, grads)
    monkeypatch.setattr(parallel, "PIECE", 10)
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    for _ in range(3):
        other.step(pieces, grads)
    assert np.array_equal(whole["w"], pieces["w"]) and (whole["w"] != start).all()
    assert all(np.array_equal(moment, other.state[name]) for name, moment in one.state.items())


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_step_may_be_done_parameter_by_parameter(kind):
    """`begin` gives a function that updates one parameter; in any order, it comes to the same as `step`."""
    together, apart = parameters(), parameters()
    one, two = kind(0.1, weight_decay=0.1), kind(0.1, weight_decay=0.1)
    for k, grads in enumerate(gradients(4)):
        one.step(together, grads, lr_factor=1 / (k + 1))
        update = two.begin(apart, 1 / (k + 1))
        before = {name: p.copy() for name, p in apart.items()}
        for name in reversed(apart):
            update(name, grads[name])
            assert (apart[name] != before[name]).all()
        assert all(np.array_equal(apart[name], together[name]) for name in apart)
    assert one.state.keys() == two.state.keys()
    assert all(np.array_equal(moment, two.state[name]) for name, moment in one.state.items())


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_factor_is_a_multiple_of_the_learning_rate(kind):
    """With a constant factor; SGD's velocity remembers the rates of the steps before."""
    params, other = parameters(), parameters()
    one, two = kind(0.5, weight_decay=0.1), kind(0.125, weight_decay=0.1)
    for grads in gradients(3):
        one.step(params, grads, lr_factor=0.25)
        two.step(other, grads)
    assert all(np.array_equal(params[name], other[name]) for name in params)
    assert not any(np.array_equal(params[name], p) for name, p in parameters().items())


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_parameter_may_learn_at_a_rate_of_its_own(kind):
    """With a tenth of the rate for one parameter, it moves as under an optimiser of a tenth of the rate, the other as before."""
    params, usual, slow = parameters(), parameters(), parameters()
    mixed = kind(0.5, weight_decay=0.1, rates={"a.weight": 0.1})
    full, tenth = kind(0.5, weight_decay=0.1), kind(0.05, weight_decay=0.1)
    for grads in gradients(3):
        for optimiser, p in ((mixed, params), (full, usual), (tenth, slow)):
            optimiser.step(p, grads, lr_factor=0.5)
    assert np.allclose(params["a.weight"], slow["a.weight"], rtol=1e-14, atol=0)
    assert np.array_equal(params["a.bias"], usual["a.bias"])
    assert not np.allclose(params["a.weight"], usual["a.weight"], rtol=1e-3)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_parameter_that_is_not_updated_after_begin_stays(kind):
    params, before = parameters(), parameters()
    kind(0.1).begin(params)("a.bias", np.ones(2))
    assert np.array_equal(params["a.weight"], before["a.weight"]) and (params["a.bias"] != before["a.bias"]).all()


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_parameter_without_gradient_stays(kind):
    params, optimiser = parameters(), kind(0.1)
    before = params["a.weight"].copy()
    optimiser.step(params, {"a.bias": np.ones(2)})
    assert np.array_equal(params["a.weight"], before)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_gradients_are_not_changed_and_dtype_is_kept(kind):
    optimiser = kind(0.1)
    params = {name: p.astype(np.float32) for name, p in parameters().items()}
    grads = {name: g.astype(np.float32) for name, g in gradients(1)[0].items()}
    copies = {name: g.copy() for name, g in grads.items()}
    optimiser.step(params, grads, lr_factor=0.5)
    assert all(np.array_equal(grads[name], copies[name]) for name in grads)
    assert all(p.dtype == np.float32 for p in params.values())
    assert all(moment.dtype == np.float32 for moment in optimiser.state.values())


@ON_CPU
def test_the_summed_and_the_normalised_loss_take_the_same_path():
    """The paper's heavy learning (summed loss, momentum 0.99, a tiny rate) is the mean loss at pixels times that rate,
    with the weight decay divided by as much."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 30, 40))
    labels = rng.integers(0, 3, (1, 30, 40))
    labels[0, :4] = 255
    pixels = 26 * 40
    lr, decay = 1e-5, 5e-4
    nets = []
    for reduction, optimiser in (("sum", SGD(lr, 0.99, decay)), ("mean", SGD(lr * pixels, 0.99, decay / pixels))):
        net = FCN8s(3, width=1 / 32, padding="same", dropout=0, dtype=np.float64)
        start = {name: p.copy() for name, p in net.params.items()}
        for _ in range(10):
            _, cache = ops.softmax_cross_entropy_forward(net.forward(x, training=True), labels, reduction=reduction)
            net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
            optimiser.step(net.params, net.grads)
        nets.append(net)
    for name, p in nets[0].params.items():
        moved = abs(p - start[name]).max()
        assert np.allclose(p, nets[1].params[name], rtol=0, atol=1e-9 * moved), name
    assert abs(nets[0].params["score_fr.weight"]).max() > 1e-4  # they did move


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_gradients_of_any_memory_order(kind):
    params, other = parameters(), parameters()
    one, two = kind(0.1), kind(0.1)
    for grads in gradients(3):
        one.step(params, grads)
        two.step(other, {name: np.asfortranarray(g) for name, g in grads.items()})
    assert all(np.array_equal(params[name], other[name]) for name in params)


def test_a_parameter_that_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match="not contiguous"):
        SGD(0.1).step({"w": np.zeros((3, 4)).T}, {"w": np.ones((4, 3))})


def test_schedules():
    assert optim.constant(0.3) == 1
    assert optim.poly(0) == 1 and optim.poly(1) == 0
    assert optim.poly(0.75) == pytest.approx(0.25**0.9)
