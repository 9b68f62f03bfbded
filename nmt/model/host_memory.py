"""Memory that this process may use. Imports no torch: exported models translate without it."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nmt.errors import ConfigError


def check_memory(key: str, value: object, num_bytes: float) -> None:
    """Raise ConfigError if a setting needs more memory than this process may use."""
    limit = min(memory_limits())
    if num_bytes > limit:
        needed, has = (f"{size / 2**30:,.1f} GiB" for size in (num_bytes, limit))
        rule = f"it needs {needed} of memory and there are {has}: use a smaller value"
        raise ConfigError(key, value, rule)


def memory_limits() -> Iterator[int]:
    """Yield the memory of this host, and what its containers and resource limits allow."""
    page = os.sysconf("SC_PAGE_SIZE")
    yield os.sysconf("SC_PHYS_PAGES") * page
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError):
        if address_space != resource.RLIM_INFINITY:
            # Libraries have reserved a part of it.
            yield address_space - int(Path("/proc/self/statm").read_text().split()[0]) * page
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            root, name = ("/sys/fs/cgroup", "memory.max")
            # Version 1 of cgroups, with a hierarchy for each controller.
            if controllers:
                root, name = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            for folder in (Path(root + path), *Path(root + path).parents):
                with suppress(OSError, ValueError):
                    yield int((folder / name).read_text(encoding="utf-8"))
