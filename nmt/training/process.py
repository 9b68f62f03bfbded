"""What a process that trains on a CPU asks of glibc and oneDNN; both are read when it starts."""

import ctypes
import os

ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}
"""glibc keeps freed memory, up to 1 GB, and does not map blocks of less than 32 MiB singly: each
update frees and wants the same again, and page faults took a sixth of the time. oneDNN keeps
compiled kernels, with their scratch memory, for 128 shapes instead of 1,024: after 240 updates of
Multi30k the process had 1,051 MiB instead of 1,375, and was as fast."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt`, in glibc's malloc.h."""


def settle() -> None:
    """The same for this process, which runs already, and for those that it starts.

    oneDNN hears of it only before its first kernel; where there is no glibc its share is left out.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, int(os.environ["MALLOC_TRIM_THRESHOLD_"]))
        mallopt(_M_MMAP_THRESHOLD, int(os.environ["MALLOC_MMAP_THRESHOLD_"]))
