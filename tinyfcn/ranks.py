r"""Processes that train one network together over MPI, each on its share of every batch.

The loss of a batch is a mean over its counted pixels, sum_p w_p l_p / W with W = sum_p w_p. Say that the pixels of rank r have
the weights W_r and the mean L_r. Then

    L = sum_r (W_r / W) L_r        and, for each parameter,        dL = sum_r (W_r / W) dL_r

so that each rank begins its backward pass with W_r / W where a single process begins with 1, and gradients are added up over the
ranks. All ranks then make the same update: their parameters, once equal, stay equal to the bit.

`mpiexec -n K python -m tinyfcn.train ...` starts K ranks. Without mpiexec there is one, and nothing is added up.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from math import prod
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from tinyfcn.backend import Array, array_module, thread_count, to_device, to_host
from tinyfcn.errors import InputError
from tinyfcn.optim import Update
from tinyfcn.parallel import split_evenly
from tinyfcn.report import open_device

Value = TypeVar("Value")

BUCKET = 4 << 20  # bytes of gradients that are sent together: enough for the link's speed, few enough to start early
PATIENCE = 2.0  # seconds in which ranks that fail for the same reason find each other
# What mpiexec tells its processes: MPICH, Intel MPI and Slurm's PMI; Slurm's PMIx; Open MPI.
SIZES = ("PMI_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# What says that MPI takes a GPU's arrays as they are: Open MPI, Cray's MPICH, MVAPICH.
TAKES_GPU = ("OMPI_MCA_opal_cuda_support", "MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA")


class Sent(NamedTuple):
    """Gradients that are being added up."""

    request: Any  # of MPI
    mine: Array  # which MPI reads until the request is done
    every: Array  # where it writes the sums
    shapes: dict[str, tuple[int, ...]]
    xp: ModuleType  # of the gradients


class Ranks(NamedTuple):
    """The processes of a job, seen from one of them."""

    comm: Any = None  # of mpi4py, where there are several
    place: int = 0  # among those on this machine

    @property
    def rank(self) -> int:
        return self.comm.rank if self.comm else 0

    @property
    def size(self) -> int:
        return self.comm.size if self.comm else 1

    def share(self, length: int) -> slice:
        """The places of a sequence of that length that are this rank's."""
        return split_evenly(length, self.size)[self.rank] if self.comm else slice(None)

    def first(self, value: Value) -> Value:
        """Rank 0's value, on every rank."""
        return self.comm.bcast(value) if self.comm else value

    def total(self, numbers: Any) -> np.ndarray:
        """The sum over all ranks of each entry of an array, on the host."""
        mine: np.ndarray = np.ascontiguousarray(numbers)
        if not self.comm:
            return mine
        every = np.empty_like(mine)
        self.comm.Allreduce(mine, every)
        return every

    def use_own_gpu(self, device: str) -> None:
        """Let the ranks of a machine take its GPUs in turn, where `device` means one."""
        if self.comm and (xp := open_device(device)) is not np:
            xp.cuda.Device(self.place % xp.cuda.runtime.getDeviceCount()).use()

    @contextmanager
    def summed(self, update: Update, params: Mapping[str, Array]) -> Iterator[Update]:
        """In place of an optimiser's `update`: one that hands it the sum over all ranks of each gradient of `params`.

        The sums are under way while the backward pass goes on, and all done when the context ends.
        """
        if not self.comm:
            yield update
            return
        sums = _Sums(self.comm, update, params)
        yield sums.add
        sums.finish()


ALONE = Ranks()


def takes_gpu() -> bool:
    """Whether MPI was told to take a GPU's arrays as they are; else they travel through the host."""
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in TAKES_GPU)


@contextmanager
def together() -> Iterator[Ranks]:
    """The ranks that mpiexec started, or this process alone. Where one of them fails, all end within seconds.

    Raises InputError where mpiexec started several and mpi4py is missing.
    """
    if all(os.environ.get(name, "1") == "1" for name in SIZES):
        yield ALONE
        return
    try:
        mpi = import_module("mpi4py.MPI")
    except ImportError as error:
        raise InputError(f"mpiexec started several processes, which need mpi4py to work together: {error}") from None
    world = mpi.COMM_WORLD
    neighbours, ending = world.Split_type(mpi.COMM_TYPE_SHARED), world.Dup()
    try:
        with threadpool_limits(_share_cores(neighbours), "blas"):
            yield Ranks(world, neighbours.rank) if world.size > 1 else ALONE
    except BaseException:
        everyone = ending.Ibarrier()
        patience = time.monotonic() + PATIENCE
        while not everyone.Test():
            if time.monotonic() > patience:  # the others wait for this one, and would wait for ever
                atexit.register(world.Abort, 2)
                raise
            time.sleep(0.01)
        if world.rank:  # all of them failed for the same reason, which rank 0 reports
            raise SystemExit(2) from None
        raise


def _share_cores(neighbours: Any) -> int:
    """Threads for this rank: its part of the cores, where other ranks of the machine may use the same."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    sharing = neighbours.allgather(mine).count(mine)
    os.environ.setdefault("TINYFCN_THREADS", str(max(1, thread_count() // sharing)))
    return thread_count()


class _Sums:
    """Gradients on their way: a bucket that fills, and those that were sent."""

    def __init__(self, comm: Any, update: Update, params: Mapping[str, Array]) -> None:
        self.comm, self.update = comm, update
        # Gradients travel in their parameter's order in memory; their own may depend on the size of the share.
        self.order = {name: sorted(range(p.ndim), key=lambda axis: -p.strides[axis]) for name, p in params.items()}
        self.bucket: list[tuple[str, Array]] = []
        self.sent: list[Sent] = []

    def add(self, name: str, gradient: Array) -> None:
        self.bucket.append((name, gradient.transpose(self.order[name])))
        if sum(g.nbytes for _, g in self.bucket) >= BUCKET:
            self._send()
        while self.sent and self.sent[0].request.Test():  # which also lets MPI get on with it
            self._receive(self.sent.pop(0))

    def finish(self) -> None:
        if self.bucket:
            self._send()
        for sent in self.sent:
            sent.request.Wait()
            self._receive(sent)

    def _send(self) -> None:
        flat = [g.reshape(-1) for _, g in self.bucket]
        xp = array_module(flat[0])
        mine = xp.concatenate(flat)
        if takes_gpu():
            xp.cuda.get_current_stream().synchronize()  # MPI does not wait for the device
        else:
            mine = to_host(mine)
        every = array_module(mine).empty_like(mine)
        shapes = {name: g.shape for name, g in self.bucket}
        self.sent.append(Sent(self.comm.Iallreduce(mine, every), mine, every, shapes, xp))
        self.bucket = []

    def _receive(self, sent: Sent) -> None:
        every, start = to_device(sent.every, sent.xp), 0
        for name, shape in sent.shapes.items():
            end = start + prod(shape)
            back = np.argsort(self.order[name])
            self.update(name, every[start:end].reshape(shape).transpose(back))
            start = end
