"""tinyfcn.command: which errors are one line and exit status 2."""

import pytest

from tinyfcn import command


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Out of memory allocating 512 bytes"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ],
    ids=str,
)
def test_too_little_memory_is_one_line_whoever_says_so(error, capsys):
    def main():
        raise error

    assert command.run(main) == 2
    assert (
        capsys.readouterr().err == f"error: out of memory: lower --batch-size, --size, --max-side, --tile or --width ({error})\n"
    )


def test_any_other_error_of_the_runtime_is_a_fault():
    def main():
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="IllegalAddress"):
        command.run(main)
