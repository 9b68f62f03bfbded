"""How MKL multiplies matrices on an Intel CPU: in its strict mode.

There a row of a product does not depend on how many rows there are, which the promise of equal
translations in any company (P7) rests on. The usual kernels for up to ten rows round in another way
than those for more; on an AMD CPU they do not, and the mode stays as it is. Large strict products
are as fast; small ones are a tenth slower, of four rows up to a quarter, the gradient of a weight a
sixth.
"""

import os
from pathlib import Path


def set_strict_mode() -> None:
    """Set it for this process and all that it starts; MKL looks when it makes its first product."""
    if _is_intel():
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def _is_intel() -> bool:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            return "GenuineIntel" in file.read(200)
    except OSError:
        return False
