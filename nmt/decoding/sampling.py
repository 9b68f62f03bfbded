"""Random numbers of sampling.

Each token is drawn from the model's distribution, optionally restricted to the `top_k` most likely
tokens (Fan et al. 2018) or to the nucleus of probability `top_p` (Holtzman et al. 2020).

Samples are batch-invariant: the random numbers of a line depend on the seed, its source tokens and
the number of the sample. Equal lines get equal samples, and the first of five samples is the sample
that is drawn alone.

Shapes: L maximum number of tokens.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def uniform_numbers(
    source: Sequence[int], num_samples: int, length: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return uniform random numbers for the tokens of all samples of a source, [num_samples, L]."""
    rows = []
    for number in range(num_samples):
        name = f"{seed} {number} {' '.join(map(str, source))}"
        # A hash gives each sample a stream of its own, whatever else is in the batch.
        digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
        # The numbers of torch.rand: its generator is seeded with 32 bits, and a number in double
        # precision has the low 53 bits of two words.
        generator = np.random.RandomState(int.from_bytes(digest[-4:], "big"))
        high, low = generator.randint(1 << 32, size=(length, 2), dtype=np.uint64).T
        rows.append(((high << np.uint64(32) | low) & np.uint64((1 << 53) - 1)) / float(1 << 53))
    return np.stack(rows)
