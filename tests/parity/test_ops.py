"""Every operation beside PyTorch's: the same values and the same gradients of all arguments."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from tinyfcn import ops  # noqa: E402

TOLERANCE = {np.float64: 1e-10, np.float32: 2e-4}
both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def close(found, expected, dtype, name):
    expected = expected.detach().numpy()
    assert found.dtype == dtype and found.shape == expected.shape, name
    scale = abs(expected).max(initial=1e-30)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=TOLERANCE[dtype], err_msg=name)


def agree(dtype, forward, backward, twin, *arguments):
    """Compare y, and the gradients of all arguments under one random gradient at y."""
    mine = [a.astype(dtype) for a in arguments]
    theirs = [torch.tensor(a, requires_grad=True) for a in mine]
    y, cache = forward(*mine)
    expected = twin(*theirs)
    close(np.asarray(y), expected, dtype, "y")
    dy = draw(*y.shape, seed=5).astype(dtype)
    expected.backward(torch.tensor(dy))
    found = backward(dy, cache)
    for k, (a, b) in enumerate(zip(found if isinstance(found, tuple) else (found,), theirs, strict=True)):
        close(a, b.grad, dtype, f"gradient of argument {k}")


@both_dtypes
@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        ((12, 11), (3, 3), {"padding": 1}),
        ((9, 9), (7, 7), {}),
        ((5, 6), (1, 1), {}),
        ((13, 10), (3, 2), {"stride": (2, 3), "padding": (2, 1), "dilation": (3, 2)}),
        ((4, 4), (3, 3), {"padding": 100}),
        ((8, 9), (2, 3), {"stride": 5}),
    ],
    ids=str,
)
def test_conv2d(dtype, size, kernel, options):
    agree(
        dtype,
        lambda x, w, b: ops.conv2d_forward(x, w, b, **options),
        ops.conv2d_backward,
        lambda x, w, b: functional.conv2d(x, w, b, **options),
        draw(2, 5, *size),
        draw(7, 5, *kernel),
        draw(7),
    )


@both_dtypes
@pytest.mark.parametrize("path", ["plain", "columns", "fast"])
@pytest.mark.parametrize(
    ("groups", "channels", "filters", "kernel", "options"),
    [
        (2, 5, 4, (5, 5), {"padding": 2}),  # as AlexNet's conv2
        (2, 18, 17, (3, 3), {"padding": 1}),  # as its conv4 and conv5
        (3, 2, 1, (3, 2), {"stride": (2, 3), "padding": (2, 1), "dilation": (3, 2)}),
        (6, 1, 1, (3, 3), {"padding": 1}),
        (2, 4, 3, (1, 1), {}),
    ],
    ids=str,
)
def test_conv2d_in_groups(monkeypatch, dtype, path, groups, channels, filters, kernel, options):
    monkeypatch.setenv("TINYFCN_CONV", path)
    agree(
        dtype,
        lambda x, w, b: ops.conv2d_forward(x, w, b, groups=groups, **options),
        ops.conv2d_backward,
        lambda x, w, b: functional.conv2d(x, w, b, groups=groups, **options),
        draw(2, groups * channels, 12, 11),
        draw(groups * filters, channels, *kernel),
        draw(groups * filters),
    )


@both_dtypes
@pytest.mark.parametrize("shape", [(2, 9, 6, 5), (2, 3, 4, 4), (2, 7, 6)], ids=str)
@pytest.mark.parametrize(
    ("scale", "size", "options"),
    [
        (30, 5, {}),  # with the defaults, small entries stay almost as they are
        (1, 5, {"alpha": 2.0, "beta": 0.75, "k": 2.0}),
        (1, 3, {"alpha": 0.5, "beta": 1.5, "k": 0.3}),
        (1, 1, {"alpha": 1.0}),
        (1, 9, {"alpha": 1.0, "beta": 0.5}),
    ],
    ids=str,
)
def test_local_response_norm(dtype, shape, scale, size, options):
    agree(
        dtype,
        lambda x: ops.local_response_norm_forward(x, size, **options),
        ops.local_response_norm_backward,
        lambda x: functional.local_response_norm(x, size, **options),
        scale * draw(*shape),
    )


@both_dtypes
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((4, 4), {"stride": 2}),
        ((16, 16), {"stride": 8}),
        ((64, 64), {"stride": 32}),
        ((3, 5), {"stride": (3, 2), "padding": (1, 2), "output_padding": (2, 1)}),
        ((3, 3), {"padding": 1}),
    ],
    ids=str,
)
def test_conv_transpose2d(dtype, kernel, options):
    agree(
        dtype,
        lambda x, w, b: ops.conv_transpose2d_forward(x, w, b, **options),
        ops.conv_transpose2d_backward,
        lambda x, w, b: functional.conv_transpose2d(x, w, b, **options),
        draw(2, 3, 4, 5),
        draw(3, 4, *kernel),
        draw(4),
    )


@both_dtypes
@pytest.mark.parametrize("size", [(8, 9), (7, 7), (5, 12)], ids=str)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (3, 2), (1, 0)), (2, 3, 1), (4, 3, 2)],
)
def test_max_pool2d(dtype, size, kernel, stride, padding, ceil_mode):
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    ties = np.random.default_rng(0).integers(0, 4, (2, 3, *size)).astype(float)
    lost = np.where(ties > 1, ties, -np.inf)
    for x in (draw(2, 3, *size), ties, np.full((1, 1, *size), -np.inf), lost):
        y, _ = ops.max_pool2d_forward(x.astype(dtype), kernel, **options)
        twin = torch.tensor(x.astype(dtype), requires_grad=True)
        expected = functional.max_pool2d(twin, kernel, **options)
        np.testing.assert_array_equal(y, expected.detach().numpy())
        dy = draw(*y.shape, seed=5).astype(dtype)
        expected.backward(torch.tensor(dy))
        dx = ops.max_pool2d_backward(dy, ops.max_pool2d_forward(x.astype(dtype), kernel, **options)[1])
        close(dx, twin.grad, dtype, "dx")


def test_max_pool2d_has_the_same_size_for_every_input_size():
    for size in range(1, 40):
        for kernel, stride, padding in [(2, 2, 0), (2, 2, 1), (3, 2, 0), (3, 2, 1), (3, 5, 1), (5, 3, 2)]:
            for ceil_mode in (False, True):
                options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
                try:
                    expected = functional.max_pool2d(torch.zeros(1, 1, size, size), kernel, **options).shape
                except RuntimeError:
                    with pytest.raises(ValueError, match="does not fit"):
                        ops.max_pool2d_forward(np.zeros((1, 1, size, size)), kernel, **options)
                else:
                    assert ops.max_pool2d_forward(np.zeros((1, 1, size, size)), kernel, **options)[0].shape == expected


@both_dtypes
def test_linear(dtype):
    agree(dtype, ops.linear_forward, ops.linear_backward, functional.linear, draw(5, 8), draw(6, 8), draw(6))


@both_dtypes
def test_relu(dtype):
    x = draw(3, 4, 5)
    x[0] = 0
    agree(dtype, ops.relu_forward, ops.relu_backward, functional.relu, x)


@both_dtypes
@pytest.mark.parametrize("factor", [2, 8, 32])
def test_upsample_bilinear_between_the_outermost_inputs(dtype, factor):
    """PyTorch repeats the border where the transposed convolution fades to zero; inside, the two are one."""
    x = draw(2, 3, 4, 5).astype(dtype)
    y, _ = ops.upsample_bilinear_forward(x, 2 * factor, factor)
    crop = factor // 2
    y = y[:, :, crop : crop + 4 * factor, crop : crop + 5 * factor]
    expected = functional.interpolate(torch.tensor(x), scale_factor=factor, mode="bilinear", align_corners=False)
    close(y[..., crop:-crop, crop:-crop].copy(), expected[..., crop:-crop, crop:-crop], dtype, "y")


@both_dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_cross_entropy(dtype, weighted, reduction, scale):
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((2, 6, 5)) < 0.3, 255, rng.integers(0, 4, (2, 6, 5)))
    weight = rng.random(4).astype(dtype) if weighted else None
    agree(
        dtype,
        lambda scores: ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction, class_weight=weight),
        ops.softmax_cross_entropy_backward,
        lambda scores: functional.cross_entropy(
            scores,
            torch.tensor(labels),
            weight=None if weight is None else torch.tensor(weight),
            ignore_index=255,
            reduction=reduction,
        ),
        scale * draw(2, 4, 6, 5),
    )
