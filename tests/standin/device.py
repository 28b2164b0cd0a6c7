"""`cupy.cuda`: one pretended device that does everything at once, so that all there is to wait for is noted, not waited for."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

from standin import memory
from standin.ledger import note

NO_DEVICE = 100, "cudaErrorNoDevice: no CUDA-capable device is detected"
INVALID_DEVICE = 101, "cudaErrorInvalidDevice: invalid device ordinal"
NAME = b"Stand-in for a GPU"
RUNTIME_VERSION, DRIVER_VERSION = 12060, 12060


class CUDARuntimeError(RuntimeError):
    __module__ = "cupy_backends.cuda.api.runtime"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stream:
    """A queue of work, empty at all times."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None) -> None:
        self.ptr = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def use(self) -> Stream:
        return self

    @property
    def done(self) -> bool:
        return True

    def synchronize(self) -> None:
        note("synchronisations", "Stream.synchronize")

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        pass


Stream.null = Stream(null=True)


class Event:
    """A point in time."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.timed, self.seconds = not disable_timing, None

    def record(self, stream: Stream | None = None) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        note("synchronisations", "Event.synchronize")

    @property
    def done(self) -> bool:
        return True


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events that have been recorded."""
    for event in (start_event, end_event):
        if not event.timed or event.seconds is None:
            raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1000 * (end_event.seconds - start_event.seconds)


class Device:
    """Device 0, while there is one."""

    compute_capability = "80"

    def __init__(self, device: Any = None) -> None:
        self.id = int(device or 0)

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        note("synchronisations", "Device.synchronize")

    @property
    def mem_info(self) -> tuple[int, int]:
        return mem_get_info()

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


def mem_get_info() -> tuple[int, int]:
    """(free, total) bytes."""
    total = memory.limit() or memory.TOTAL
    return max(total - memory.used(), 0), total


def modules(devices: int) -> dict[str, ModuleType]:
    """`cupy.cuda`, `cupy.cuda.runtime` and `cupy.cuda.memory` of a machine with so many devices."""

    def require() -> None:
        if not devices:
            raise CUDARuntimeError(*NO_DEVICE)

    def get_device_count() -> int:
        require()
        return devices

    def get_device_properties(device: int) -> dict[str, Any]:
        require()
        if not 0 <= device < devices:
            raise CUDARuntimeError(*INVALID_DEVICE)
        return {"name": NAME, "totalGlobalMem": memory.TOTAL, "major": 8, "minor": 0, "multiProcessorCount": 1}

    def synchronise() -> None:
        require()
        note("synchronisations", "deviceSynchronize")

    stream = Stream.null
    runtime = _module(
        "cupy.cuda.runtime",
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=get_device_count,
        getDeviceProperties=get_device_properties,
        getDevice=lambda: 0,
        runtimeGetVersion=lambda: RUNTIME_VERSION,
        driverGetVersion=lambda: DRIVER_VERSION,
        memGetInfo=mem_get_info,
        deviceSynchronize=synchronise,
        is_hip=False,
    )
    pools = _module("cupy.cuda.memory", OutOfMemoryError=memory.OutOfMemoryError, MemoryPool=memory.MemoryPool)
    cuda = _module(
        "cupy.cuda",
        runtime=runtime,
        memory=pools,
        Device=Device,
        Stream=Stream,
        Event=Event,
        MemoryPool=memory.MemoryPool,
        get_elapsed_time=get_elapsed_time,
        get_current_stream=lambda device_id=-1: stream,
        is_available=lambda: devices > 0,
    )
    return {"cupy.cuda": cuda, "cupy.cuda.runtime": runtime, "cupy.cuda.memory": pools}


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module
