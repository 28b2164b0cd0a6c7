"""Winograd's tiles: cutting maps into blocks of tiles, transforming those, and putting them together, in buffers that are reused.

The mathematics is in `tinyfcn.ops.winograd`; what is here makes it fast. A tile is four outputs wide and high. A block is as many
tiles as a core's cache holds, and its spectra, the 36 numbers that each tile becomes, lie so that the products over channels are
matrix products. Every step reads one of two buffers and writes the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, repeat
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import Array, array_module, hwnc
from tinyfcn.ops import kernels
from tinyfcn.ops._windows import inside
from tinyfcn.ops.conv import add_bias
from tinyfcn.parallel import at_once, bands, split_evenly

TILE = 4  # outputs along a tile's side
BLOCK_BYTES = 2 << 20  # spectra of one block: two such arrays, one read and one written, almost stay in a core's cache
BLOCK_WIDTH = 48  # tiles side by side in a block: lower and wider blocks would share less of their borders
WORTH_WAKING_BYTES = 3 << 18  # spectra that it is worth waking another thread up for

Block = tuple[slice, slice]  # rows of tiles, columns of tiles
Buffers = Iterator[Callable[..., Array]]  # `next` gives one of two scratch arrays; call it with a shape


def blocks(y: Array, channels: int, threads: int) -> list[Block]:
    """Cut y into blocks of tiles, for so many threads.

    The spectra of a block fit into the cache. But with many channels they must not be so few that reading all kernels, once per
    block, costs more than reading the tiles: half as many again as channels are enough, or 384, for the sake of memory.
    """
    xp = array_module(y)
    n, _, height, width = y.shape
    high, wide = -(-height // TILE), -(-width // TILE)
    tile_bytes = 36 * channels * y.itemsize
    tiles = max(at_once(xp, BLOCK_BYTES) // tile_bytes, min(3 * channels // 2, 384))
    a_share = max(-(-n * high * wide // threads), WORTH_WAKING_BYTES // tile_bytes, 1)
    return [
        (rows, columns)
        for columns in split_evenly(wide, -(-wide // at_once(xp, BLOCK_WIDTH)))
        for rows in bands(xp, high, (columns.stop - columns.start) * n, min(tiles, a_share))
    ]


def count(images: int, size: tuple[int, int]) -> int:
    """Tiles that so many maps of this size are cut into."""
    return images * prod(-(-length // TILE) for length in size)


def buffers(xp: ModuleType, dtype: Any, blocks: Sequence[Block], depth: int) -> Buffers:
    """Two scratch arrays that take turns, so that the one is read while the other is written; on a GPU, new ones from its pool.

    Each has room for the spectra of the largest block, 36 for each tile and each of `depth` values.
    """
    if xp is not np:
        return repeat(lambda *shape: xp.empty(shape, dtype))
    tiles = max(prod(axis.stop - axis.start for axis in block) for block in blocks)

    def shaped(flat: Array) -> Callable[..., Array]:
        return lambda *shape: flat[: prod(shape)].reshape(shape)

    return cycle([shaped(np.empty(36 * tiles * depth, dtype)) for _ in range(2)])


def spectra(p: Array, x: Array, block: Block, padding: tuple[int, int], buffers: Buffers) -> Array:
    """P d P^T for the matrix P (6, k) and every tile d (k, k) of a block of x: (6, 6, tile rows, tile columns, N, C).

    Tiles begin at every fourth row and column, the first one `padding` outside x. The first axis counts columns.
    """
    down, across = block
    high, wide, k = down.stop - down.start, across.stop - across.start, p.shape[1]
    if array_module(x) is not np:
        first = TILE * down.start - padding[0], TILE * across.start - padding[1]
        return kernels.tile_spectra(p, x, first, (high, wide))
    patch = _patch(x, block, padding, k, next(buffers))  # (rows, columns, N C)
    half = next(buffers)(6, len(patch), wide, patch.shape[2])  # (6, rows, tile columns, N C)
    np.matmul(p, _windows(patch, k), out=half.transpose(1, 2, 0, 3))
    by_rows = half.reshape(6, len(patch), -1)  # (6, rows, tile columns N C)
    spectra = next(buffers)(6, 6, high, wide, len(x), x.shape[1])
    np.matmul(p, _windows(by_rows, k), out=spectra.reshape(6, 6, high, -1).swapaxes(1, 2))
    return spectra


def write(a_t: Array, m: Array, y: Array, block: Block, relu: bool, buffers: Buffers) -> None:
    """Write A^T M A, and max of it and 0 if `relu`, for every tile of a block, into y; m is (6, 6, tile rows, columns, N, C)."""
    if array_module(m) is not np:
        return kernels.write_tiles(a_t, m, y, (TILE * block[0].start, TILE * block[1].start), relu)
    high, wide, n, channels = m.shape[2:]
    half = next(buffers)(TILE, *m.shape[1:])
    np.matmul(a_t, m.reshape(6, 6 * high, -1).swapaxes(0, 1), out=half.reshape(TILE, 6 * high, -1).swapaxes(0, 1))
    tiles = next(buffers)(TILE, high * TILE, wide, n, channels)  # (column in tile, row, tile column, N, C)
    np.matmul(a_t, half.reshape(TILE, 6, high, -1).swapaxes(1, 2), out=tiles.reshape(TILE, high, TILE, -1))
    add_bias(tiles.reshape(TILE * high * TILE, -1), None, relu)  # the bias is in m
    down, across = (slice(axis.start * TILE, axis.stop * TILE) for axis in block)
    here = hwnc(y)[down, across]
    for column in range(min(TILE, here.shape[1])):
        out = here[:, column::TILE]
        out[...] = tiles[column, : out.shape[0], : out.shape[1]]  # tiles may hang over the border


def _patch(x: Array, block: Block, padding: tuple[int, int], k: int, buffer: Callable[..., Array]) -> Array:
    """The pixels that a block's tiles d (k, k) see, with zeros outside x: (rows, columns, N C)."""
    n, channels, height, width = x.shape
    top, left = (TILE * axis.start - p for axis, p in zip(block, padding, strict=True))
    rows, columns = (TILE * (axis.stop - axis.start - 1) + k for axis in block)
    patch = buffer(rows, columns, n, channels)
    down, source_rows = inside(height, rows, top, 1)
    across, source_columns = inside(width, columns, left, 1)
    for outside in patch[: down.start], patch[down.stop :], patch[:, : across.start], patch[:, across.stop :]:
        outside[...] = 0
    patch[down, across] = hwnc(x)[source_rows, source_columns]
    return patch.reshape(rows, columns, n * channels)


def _windows(a: Array, k: int) -> Array:
    """What each tile sees along the second axis of a (rows, places, line), as a view: (rows, tiles, k, line). Tiles overlap."""
    (rows, places, line), (down, across, step) = a.shape, a.strides
    return np.lib.stride_tricks.as_strided(a, (rows, (places - k) // TILE + 1, k, line), (down, TILE * across, across, step))
