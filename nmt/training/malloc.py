"""What a process that trains on a CPU asks of glibc, which reads it when it starts."""

import ctypes
import os

MALLOC_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
}
"""glibc keeps freed memory, up to 1 GB, and does not map blocks of less than 32 MiB singly: each
update frees and wants the same again, and page faults took a sixth of the time. oneDNN's 1,024
compiled kernels are left alone: 128 of them save 0.3 GB on Multi30k, but the demo trained at 18,000
target tokens/s instead of 19,200, in one run each."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt`, in glibc's malloc.h."""


def configure_malloc() -> None:
    """The same for this process, which runs already, and for those that it starts.

    Where there is no glibc only they hear of it.
    """
    for name, value in MALLOC_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, int(os.environ["MALLOC_TRIM_THRESHOLD_"]))
        mallopt(_M_MMAP_THRESHOLD, int(os.environ["MALLOC_MMAP_THRESHOLD_"]))
