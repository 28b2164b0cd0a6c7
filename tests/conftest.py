"""The tests' matrix products are small: one BLAS thread is faster than several, most of all on a busy machine."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
