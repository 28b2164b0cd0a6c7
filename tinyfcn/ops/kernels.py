r"""What a GPU does better in one kernel of its own than in many calls of NumPy's functions.

A processor is fast where a band of numbers stays in its cache from one call to the next. A GPU is fast where a call has millions
of numbers to work on, and leaves nothing in memory between two steps. Each call costs the host some ten microseconds, however
little it does, and a training step that is written for a processor makes two thousand of them.

Each function here has a twin in NumPy's calls, which its docstring names and which holds the mathematics. A kernel is the body
of a loop over `i`, in CUDA C++, that `cupy.ElementwiseKernel` makes a function of; T is float or double. Maps come and go pixel
by pixel, as (H, W, N, C), see `tinyfcn.backend.empty_hwnc`: then neighbours in `i` are neighbours in memory, which a GPU reads
and writes at once.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from tinyfcn.backend import Array, array_module, empty_hwnc, hwnc
from tinyfcn.ops.conv import POINTWISE, Geometry, as_matrix

Pair = tuple[int, int]
MAP = "int64 height, int64 width, int64 depth"  # of a map: depth counts images times channels


@cache
def _kernel(name: str, ins: str, outs: str, body: str) -> Any:
    return import_module("cupy").ElementwiseKernel(ins, outs, body, f"tinyfcn_{name}", preamble="typedef long long int64;")


def _depth(x: Array) -> int:
    return len(x) * int(x.shape[1])


# Winograd's tiles


def _constants(matrix: np.ndarray) -> str:
    """A matrix p as constants of the code, which the compiler sees."""
    return _constants_of(matrix.tobytes(), matrix.dtype.str, matrix.shape)


@cache
def _constants_of(numbers: bytes, dtype: str, shape: Pair) -> str:
    matrix = np.frombuffer(numbers, dtype).reshape(shape)
    rows = ", ".join("{" + ", ".join(map(repr, row)) + "}" for row in matrix.tolist())
    return f"const T p[{shape[0]}][{shape[1]}] = {{{rows}}};"


def tile_spectra(p: np.ndarray, x: Array, first: Pair, tiles: Pair) -> Array:
    """P d P^T of every tile, (6, 6, tile rows, tile columns, N, C): `tinyfcn.ops.tiles.spectra`.

    `first` is the place of the first tile's first pixel, `tiles` how many there are. A thread does one tile of one channel.
    """
    xp, k = array_module(x), p.shape[1]
    n, channels, height, width = x.shape
    spectra = xp.empty((6, 6, *tiles, n, channels), x.dtype)
    kernel = _kernel(
        f"tile_spectra_{k}",
        f"raw T x, {MAP}, int64 top, int64 left, int64 tile_columns, int64 count",
        "raw T spectra",
        f"""
        {_constants(p)}
        const int64 channel = i % depth, s = i / depth % tile_columns, r = i / depth / tile_columns;
        T half[6][{k}];
        #pragma unroll
        for (int b = 0; b < {k}; ++b) {{
            const int64 column = left + 4 * s + b;
            T d[{k}];
            #pragma unroll
            for (int a = 0; a < {k}; ++a) {{
                const int64 row = top + 4 * r + a;
                const int64 place = (row * width + column) * depth + channel;
                const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                d[a] = inside ? x[place] : T(0);
            }}
            #pragma unroll
            for (int u = 0; u < 6; ++u) {{
                half[u][b] = 0;
                #pragma unroll
                for (int a = 0; a < {k}; ++a) half[u][b] += p[u][a] * d[a];
            }}
        }}
        #pragma unroll
        for (int v = 0; v < 6; ++v) {{
            #pragma unroll
            for (int u = 0; u < 6; ++u) {{
                T sum = 0;
                #pragma unroll
                for (int b = 0; b < {k}; ++b) sum += half[u][b] * p[v][b];
                spectra[(6 * v + u) * count + i] = sum;
            }}
        }}
        """,
    )
    count = spectra.size // 36
    kernel(hwnc(x), height, width, _depth(x), *first, tiles[1], count, spectra, size=count)
    return spectra


def write_tiles(a_t: np.ndarray, m: Array, y: Array, first: Pair, relu: bool) -> None:
    """Write A^T M A of every tile, and max of it and 0 if `relu`, into y from the pixel `first` on: `tinyfcn.ops.tiles.write`."""
    _, _, height, width = y.shape
    kernel = _kernel(
        "write_tiles",
        f"raw T m, {MAP}, int64 top, int64 left, int64 tile_columns, int64 count, bool relu",
        "raw T y",
        f"""
        {_constants(a_t)}
        const int64 channel = i % depth, s = i / depth % tile_columns, r = i / depth / tile_columns;
        T half[4][6];
        #pragma unroll
        for (int v = 0; v < 6; ++v) {{
            T d[6];
            #pragma unroll
            for (int u = 0; u < 6; ++u) d[u] = m[(6 * v + u) * count + i];
            #pragma unroll
            for (int a = 0; a < 4; ++a) {{
                half[a][v] = 0;
                #pragma unroll
                for (int u = 0; u < 6; ++u) half[a][v] += p[a][u] * d[u];
            }}
        }}
        #pragma unroll
        for (int a = 0; a < 4; ++a) {{
            #pragma unroll
            for (int b = 0; b < 4; ++b) {{
                T sum = 0;
                #pragma unroll
                for (int v = 0; v < 6; ++v) sum += half[a][v] * p[b][v];
                const int64 row = top + 4 * r + a, column = left + 4 * s + b;
                if (row < height && column < width)  // tiles may hang over the border
                    y[(row * width + column) * depth + channel] = relu && sum < 0 ? T(0) : sum;
            }}
        }}
        """,
    )
    count = m.size // 36
    kernel(m, height, width, _depth(y), *first, m.shape[3], count, relu, hwnc(y), size=count)


def kernel_spectra(g: np.ndarray, weight: Array) -> Array:
    """U = G g G^T of every kernel, (36, C_in, C_out): `tinyfcn.ops.winograd.kernel_spectra`."""
    c_out, c_in = weight.shape[:2]
    u = array_module(weight).empty((36, c_in, c_out), weight.dtype)
    kernel = _kernel(
        "kernel_spectra",
        "raw T weight, int64 c_in, int64 c_out",
        "raw T spectra",
        f"""
        {_constants(g)}
        const int64 filter = i % c_out, channel = i / c_out;
        T half[6][3];
        #pragma unroll
        for (int b = 0; b < 3; ++b) {{
            T d[3];
            #pragma unroll
            for (int a = 0; a < 3; ++a) d[a] = weight[((filter * c_in + channel) * 3 + a) * 3 + b];
            #pragma unroll
            for (int u = 0; u < 6; ++u) half[u][b] = p[u][0] * d[0] + p[u][1] * d[1] + p[u][2] * d[2];
        }}
        #pragma unroll
        for (int v = 0; v < 6; ++v) {{
            #pragma unroll
            for (int u = 0; u < 6; ++u)
                spectra[(6 * v + u) * c_in * c_out + i] = half[u][0] * p[v][0] + half[u][1] * p[v][1] + half[u][2] * p[v][2];
        }}
        """,
    )
    kernel(weight, c_in, c_out, u, size=c_in * c_out)
    return u


# Columns

WINDOWS = "int64 kernel_h, int64 kernel_w, int64 stride_h, int64 stride_w, int64 pad_h, int64 pad_w, int64 dil_h, int64 dil_w"


def im2col(x: Array, geometry: Geometry, rows: slice, width_out: int) -> Array:
    """The columns (C_in k_h k_w, rows W_out N) of inputs that these rows of outputs see: `tinyfcn.ops.conv.im2col`."""
    if geometry == POINTWISE:
        return as_matrix(x, rows).T
    n, channels, height, width = x.shape
    taps, places = geometry.kernel[0] * geometry.kernel[1], (rows.stop - rows.start) * width_out * n
    columns = array_module(x).empty((channels * taps, places), x.dtype)
    kernel = _kernel(
        "im2col",
        f"raw T x, int64 height, int64 width, int64 n, int64 channels, {WINDOWS}, int64 first, int64 width_out, int64 places",
        "T column",
        """
        const int64 place = i % places, image = place % n, c = place / n % width_out, r = first + place / n / width_out;
        const int64 tap = i / places % (kernel_h * kernel_w), channel = i / places / (kernel_h * kernel_w);
        const int64 row = r * stride_h - pad_h + tap / kernel_w * dil_h, col = c * stride_w - pad_w + tap % kernel_w * dil_w;
        const bool inside = row >= 0 && row < height && col >= 0 && col < width;
        column = inside ? x[((row * width + col) * n + image) * channels + channel] : T(0);
        """,
    )
    kernel(hwnc(x), height, width, n, channels, *_windows(geometry), rows.start, width_out, places, columns)
    return columns


def col2im(columns: Array, dx: Array, geometry: Geometry, rows: slice, width_out: int) -> None:
    """Add the columns to dx, each entry where `im2col` took it from: `tinyfcn.ops.conv.col2im`.

    A thread adds up what one input gets, so that no two write to the same place.
    """
    n, channels, _, width = dx.shape
    kernel = _kernel(
        "col2im",
        f"raw T columns, int64 width, int64 n, int64 channels, {WINDOWS}, int64 first, int64 last, int64 width_out",
        "T dx",
        """
        const int64 channel = i % channels, image = i / channels % n;
        const int64 col = i / channels / n % width, row = i / channels / n / width;
        const int64 places = (last - first) * width_out * n;
        T sum = 0;
        for (int64 a = 0; a < kernel_h; ++a) {
            const int64 down = row + pad_h - a * dil_h, r = down / stride_h;
            if (down < 0 || down % stride_h || r < first || r >= last) continue;
            for (int64 b = 0; b < kernel_w; ++b) {
                const int64 across = col + pad_w - b * dil_w, c = across / stride_w;
                if (across < 0 || across % stride_w || c >= width_out) continue;
                sum += columns[((channel * kernel_h + a) * kernel_w + b) * places + ((r - first) * width_out + c) * n + image];
            }
        }
        dx += sum;
        """,
    )
    kernel(columns, width, n, channels, *_windows(geometry), rows.start, rows.stop, width_out, hwnc(dx))


def _windows(geometry: Geometry) -> tuple[int, ...]:
    return (*geometry.kernel, *geometry.stride, *geometry.padding, *geometry.dilation)


def add_bias(outputs: Array, bias: Array | None, relu: bool) -> None:
    """outputs (pixels, C) + bias (C,), and max of it and 0 if `relu`, in place."""
    if bias is None:
        if relu:
            array_module(outputs).maximum(outputs, 0, out=outputs)
        return
    body = "const T sum = y + bias; y = relu && sum < 0 ? T(0) : sum;"
    _kernel("add_bias", "T bias, bool relu", "T y", body)(bias, relu, outputs)


def gated(dy: Array, y: Array, out: Array) -> None:
    """Write dy, 0 wherever y is not positive, into out: `tinyfcn.ops.activation.gated`."""
    _kernel("gated", "T dy, T y", "T out", "out = y > 0 ? dy : T(0);")(dy, y, out)


# Max pooling

POOL = f"{MAP}, int64 kernel_h, int64 kernel_w, int64 stride_h, int64 stride_w, int64 pad_h, int64 pad_w"


def max_pool(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair) -> None:
    """Write the largest input of each window into y: `tinyfcn.ops.pool.max_pool2d_forward`. A NaN counts as the largest."""
    run = _kernel(
        "max_pool",
        f"raw T x, {POOL}, int64 width_out",
        "T y",
        """
        const int64 channel = i % depth, c = i / depth % width_out, r = i / depth / width_out;
        T best = 0;
        bool some = false;
        for (int64 row = r * stride_h - pad_h; row < r * stride_h - pad_h + kernel_h; ++row) {
            if (row < 0 || row >= height) continue;
            for (int64 col = c * stride_w - pad_w; col < c * stride_w - pad_w + kernel_w; ++col) {
                if (col < 0 || col >= width) continue;
                const T value = x[(row * width + col) * depth + channel];
                if (!some || value > best || value != value) best = value;
                some = true;
            }
        }
        y = best;
        """,
    )
    run(hwnc(x), *x.shape[2:], _depth(x), *kernel, *stride, *padding, y.shape[3], hwnc(y))


def max_pool_backward(dy: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Return what each input gets of the windows that it won: `tinyfcn.ops.pool.max_pool2d_backward`."""
    dx = empty_hwnc(array_module(x), x.shape, dy.dtype)
    run = _kernel(
        "max_pool_backward",
        f"raw T dy, raw T x, raw T y, {POOL}, int64 height_out, int64 width_out",
        "T dx",
        """
        const int64 channel = i % depth, col = i / depth % width, row = i / depth / width;
        T sum = 0;
        for (int64 r = row + pad_h < kernel_h ? 0 : (row + pad_h - kernel_h) / stride_h + 1; r < height_out; ++r) {
            const int64 top = r * stride_h - pad_h;
            if (top > row) break;
            for (int64 c = col + pad_w < kernel_w ? 0 : (col + pad_w - kernel_w) / stride_w + 1; c < width_out; ++c) {
                const int64 left = c * stride_w - pad_w;
                if (left > col) break;
                const int64 window = (r * width_out + c) * depth + channel;
                bool wins = x[i] == y[window];
                for (int64 a = top < 0 ? 0 : top; wins && a <= row; ++a)  // unless an earlier one, in reading order, is as large
                    for (int64 b = left < 0 ? 0 : left; wins && b < (a < row ? left + kernel_w : col) && b < width; ++b)
                        wins = x[(a * width + b) * depth + channel] != y[window];
                if (wins) sum += dy[window];
            }
        }
        dx = sum;
        """,
    )
    run(hwnc(dy), hwnc(x), hwnc(y), *x.shape[2:], _depth(x), *kernel, *stride, *padding, *y.shape[2:], hwnc(dx))
    return dx


# Loss


def softmax_cross_entropy(scores: Array, index: Array, weight: Array, gradient: Array, loss: Array) -> None:
    """Write loss (N, P) and gradient (N, C, P) of scores (N, C, P) at pixels of class `index` (N, P) that weigh `weight` (N, P):
    the loop of `tinyfcn.ops.loss.softmax_cross_entropy_forward`."""
    kernel = _kernel(
        "softmax_cross_entropy",
        "raw T scores, int64 index, T weight, int64 classes, int64 pixels",
        "raw T gradient, T loss",
        """
        const int64 start = i / pixels * classes * pixels + i % pixels;
        T largest = scores[start], total = 0;
        for (int64 k = 1; k < classes; ++k) largest = scores[start + k * pixels] > largest ? scores[start + k * pixels] : largest;
        for (int64 k = 0; k < classes; ++k) total += exp(scores[start + k * pixels] - largest);
        for (int64 k = 0; k < classes; ++k) {
            const int64 place = start + k * pixels;
            gradient[place] = weight / total * exp(scores[place] - largest) - (k == index ? weight : T(0));
        }
        loss = weight != 0 ? weight * (log(total) - (scores[start + index * pixels] - largest)) : T(0);
        """,
    )
    kernel(scores, index, weight, *scores.shape[1:], gradient, loss)


# Optimisers


def sgd(w: Array, g: Array, v: Array, momentum: float, lr: float, decay: float) -> None:
    """A step of `tinyfcn.optim.SGD`."""
    body = "v = momentum * v - lr * g - decay * w; w += v;"
    _kernel("sgd", "T g, T momentum, T lr, T decay", "T w, T v", body)(g, momentum, lr, decay, w, v)


def adam(
    w: Array, g: Array, m: Array, v: Array, rates: tuple[float, float], lr: float, rest: float, keep: float, eps: float
) -> None:
    """A step of `tinyfcn.optim.Adam`: `rates` are 1 - b1 and 1 - b2, `lr` is that over 1 - b1^t, `rest` is 1 - b2^t, and `keep`
    is the share of w that the decay leaves."""
    kernel = _kernel(
        "adam",
        "T g, T a1, T a2, T lr, T rest, T keep, T eps",
        "T w, T m, T v",
        "m += a1 * (g - m); v += a2 * (g * g - v); w = w * keep - lr * m / (sqrt(v / rest) + eps);",
    )
    kernel(g, *rates, lr, rest, keep, eps, w, m, v)
