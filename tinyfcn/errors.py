"""The one exception that means "what you gave me cannot be used", as opposed to a fault in the program."""


class InputError(ValueError):
    """A file or value that a user gave cannot be used.

    The message is one line that names the file or the value, and the remedy. The commands print it on stderr and
    exit with status 2; anything else that is raised is a bug and keeps its traceback.
    """


FULL = ("CUBLAS_STATUS_ALLOC_FAILED", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CURAND_STATUS_ALLOCATION_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory: on the host, in CuPy's pool, or for one of CUDA's libraries."""
    return isinstance(error, MemoryError) or any(name in str(error) for name in FULL)


def one_line(text: str, longest: int = 400) -> str:
    """Text that may come from a file, fit for a terminal: no line feeds, no escapes, not too long."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= longest else text[:longest] + "..."
