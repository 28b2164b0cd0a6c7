"""tinyfcn.parallel: cutting, the number of threads, who does what, errors, BLAS threads, forks."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from tinyfcn import parallel as module
from tinyfcn.backend import thread_count
from tinyfcn.errors import InputError
from tinyfcn.parallel import bands, in_pieces, map_queue, map_shares, split_evenly, workers

QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@pytest.fixture
def threads(monkeypatch):
    return lambda count: monkeypatch.setenv("TINYFCN_THREADS", str(count))


# Cutting.


def covered(slices):
    return [k for piece in slices for k in range(piece.start, piece.stop)]


@QUICK
@given(st.integers(0, 200), st.integers(0, 300))
def test_cut_covers_a_range_in_order_in_nearly_equal_slices(length, parts):
    slices = split_evenly(length, parts)
    lengths = [piece.stop - piece.start for piece in slices]
    assert covered(slices) == (list(range(length)) if parts else [])
    assert len(slices) == min(parts, length)
    assert not slices or (min(lengths) >= 1 and max(lengths) - min(lengths) <= 1)


@QUICK
@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 2000), st.integers(1, 4))
def test_bands_cover_every_row_once_in_order_and_are_near_the_target(rows, row_size, target, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYFCN_THREADS", str(threads))
        found = bands(np, rows, row_size, target)
    assert covered(found) == list(range(rows))
    sizes = [row_size * (band.stop - band.start) for band in found]
    for size in sizes:
        assert size < target + row_size  # less than a row too much, where rows do not fit exactly
        assert size > target / 2 - row_size or len(found) <= threads  # nor much too little
    assert len(found) <= 1 or len(found) == rows or len(found) % threads == 0  # as many for each thread


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((12, 10, 120), [12]),  # everything fits
        ((12, 10, 119), [6, 6]),
        ((12, 10, 40), [3, 3, 3, 3]),
        ((12, 10, 50), [3, 3, 3, 3]),  # three bands would leave a thread idle for a third of the time
        ((3, 10, 1), [1, 1, 1]),  # never less than a row
        ((5, 0, 7), []),  # rows of an empty batch
    ],
    ids=str,
)
def test_bands_of_two_threads(threads, arguments, sizes):
    threads(2)
    assert [band.stop - band.start for band in bands(np, *arguments)] == sizes


# The number of threads.


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_environment_says_how_many_threads(threads, count):
    threads(count)
    assert thread_count() == workers(np) == count
    assert len(map_shares(np, list, range(100))) == count
    assert len(map_shares(np, list, range(100), 1)) == 1


def test_little_work_is_not_shared(threads):
    threads(2)
    assert [workers(np, multiplications) for multiplications in (1e6, 1e9)] == [1, 2]


def test_without_a_word_there_is_a_thread_for_each_core(monkeypatch):
    monkeypatch.delenv("TINYFCN_THREADS", raising=False)
    assert 1 <= thread_count() <= os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8})
        assert thread_count() == 3


@pytest.mark.parametrize("text", ["0", "two", "-1", "", "1.5", " ", "00", "²"])
def test_another_number_of_threads_is_refused_by_name(threads, text):
    threads(text)
    with pytest.raises(InputError, match=f"TINYFCN_THREADS must be a number of threads from 1 up, got '{text}'"):
        thread_count()
    with pytest.raises(InputError, match="TINYFCN_THREADS"):
        map_shares(np, list, [1, 2, 3])


# Who does what.


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("pieces", [1, 2, 5, 6, 30])
def test_results_come_in_order_from_equal_shares_of_neighbours(threads, count, pieces):
    threads(count)
    shares = map_shares(np, list, [f"piece {k}" for k in range(pieces)])
    assert [piece for share in shares for piece in share] == [f"piece {k}" for k in range(pieces)]
    sizes = [len(share) for share in shares]
    assert len(shares) == min(count, pieces) and max(sizes) - min(sizes) <= 1
    assert map_shares(np, list, [f"piece {k}" for k in range(pieces)]) == shares  # the same in every run


def test_nothing_to_do(threads):
    threads(3)
    assert map_shares(np, fail, []) == []
    assert map_shares(ModuleType("cupy"), fail, []) == []


def fail(share):
    raise AssertionError("nothing was to be done")


def test_shares_run_side_by_side(threads):
    threads(2)
    barrier = threading.Barrier(2, timeout=30)

    def work(share):
        barrier.wait()  # until the other one is there, too
        return threading.get_ident(), share

    (one, first), (other, second) = map_shares(np, work, "ab")
    assert one != other and (first, second) == ("a", "b")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("pieces", [0, 1, 2, 50])
def test_each_piece_is_taken_once_by_whoever_is_free(threads, count, pieces):
    threads(count)
    taken = []
    map_queue(np, lambda todo: [taken.append((piece, threading.get_ident())) for piece in todo], range(pieces))
    assert sorted(piece for piece, _ in taken) == list(range(pieces))


def test_a_thread_that_is_held_up_takes_fewer_pieces(threads):
    threads(2)
    rest_is_done = threading.Event()
    counts = {}

    def work(todo):
        me = threading.get_ident()
        for piece in todo:
            counts[me] = counts.get(me, 0) + 1
            if piece == 0:
                assert rest_is_done.wait(30)
            if piece == 9:
                rest_is_done.set()

    map_queue(np, work, range(10))
    assert sorted(counts.values()) == [1, 9]


def test_one_thread_is_the_caller_s_own(threads):
    threads(1)
    assert map_shares(np, lambda share: threading.get_ident(), range(5)) == [threading.get_ident()]


def test_a_gpu_gets_everything_at_once_from_the_caller_s_thread(threads):
    threads(3)
    found = map_shares(ModuleType("cupy"), lambda share: (list(share), threading.get_ident()), range(5))
    assert found == [([0, 1, 2, 3, 4], threading.get_ident())]


def test_callers_on_several_threads_take_turns(threads):
    threads(2)
    inside = []

    def work(share):
        inside.append(share[0] // 10)
        return sum(share)

    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda k: sum(map_shares(np, work, range(10 * k, 10 * k + 10))), range(20)))
    assert found == [sum(range(10 * k, 10 * k + 10)) for k in range(20)]
    assert inside[::2] == inside[1::2]  # both shares of one call, before the next begins


# Errors.


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_error_on_any_thread_comes_out_when_all_are_done(threads, where):
    threads(3)
    done = []
    other = threading.Event()

    def work(share):
        if share[0] == where:
            other.set()
            raise ZeroDivisionError(f"piece {where}")
        assert other.wait(30)
        time.sleep(0.05)  # still at work while the error is on its way
        done.append(share[0])

    with pytest.raises(ZeroDivisionError, match=f"piece {where}"):
        map_shares(np, work, range(3))
    assert sorted(done) == [k for k in range(3) if k != where]
    assert map_shares(np, list, range(3)) == [[0], [1], [2]]  # and nothing is left locked


# BLAS.


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.skipif(not blas_threads(), reason="threadpoolctl does not know this BLAS")
@pytest.mark.parametrize("count", [1, 2])
def test_blas_has_one_thread_inside_and_its_own_number_outside(threads, count):
    threads(count)
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert 2 in before
        inside = map_shares(np, lambda share: blas_threads(), range(count))
        assert inside == [[1] * len(before)] * count
        assert blas_threads() == before
        with pytest.raises(AssertionError):
            map_shares(np, fail, range(count))
        assert blas_threads() == before


# Forks.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_run_in_a_forked_process(threads):
    threads(2)
    assert map_shares(np, sum, range(10)) == [10, 35]  # the parent's threads exist, and are waiting
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends a child that waits for threads it does not have
        try:
            right = map_shares(np, sum, range(10)) == [10, 35]
        finally:
            os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert map_shares(np, sum, range(10)) == [10, 35]


# Entry by entry.


def pixel_by_pixel(a):
    return np.ascontiguousarray(a.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)


def with_gaps(a):
    return np.repeat(a, 2, -1)[..., ::2]


LAYOUTS = {
    "contiguous": (np.array, np.array),
    "pixel by pixel": (pixel_by_pixel, pixel_by_pixel),
    "one of each": (np.array, pixel_by_pixel),
    "with gaps": (with_gaps, np.asfortranarray),
}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 10**6], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_pieces_reaches_every_entry_once_through_any_layout(monkeypatch, threads, layout, size, count):
    threads(count)
    monkeypatch.setattr(module, "PIECE", size)
    a, b = np.random.default_rng(0).standard_normal((2, 5, 3, 4, 2))
    target, source = (lay(array) for lay, array in zip(LAYOUTS[layout], (a, b), strict=True))

    def change(x, y):
        x *= 3
        x += y

    in_pieces(change, target, source)
    np.testing.assert_array_equal(target, a * 3 + b)
    np.testing.assert_array_equal(source, b)


def test_in_pieces_of_about_the_size_that_fits(monkeypatch, threads):
    threads(2)
    monkeypatch.setattr(module, "PIECE", 10)
    for shape, expected in [((95,), 95), ((5, 19), 95), ((3,), 3), ((), 1)]:
        seen = []
        in_pieces(lambda x, seen=seen: seen.append(x.size), np.zeros(shape))
        assert sum(seen) == expected and len(seen) == -(-expected // 10) and max(seen) <= 10


def test_in_pieces_of_nothing():
    in_pieces(lambda x: x.__iadd__(1), np.zeros((0, 3)))
    in_pieces(lambda x: x.__iadd__(1), np.zeros((2, 3, 0, 4)).transpose(0, 3, 1, 2))
