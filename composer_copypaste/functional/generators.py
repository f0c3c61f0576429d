"""The random numbers of copy-paste and large-scale jitter: generators on the CPU, passed as arguments."""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

JITTER_STREAM = 1
"""Makes the random numbers of large-scale jitter independent of copy-paste's, which has no stream number."""


def generator_or_default(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or torch's default one for None.

    Raises:
        TypeError: where it is no generator.
        ValueError: where it is on a device.
    """
    if generator is None:
        return torch.default_generator
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator, got {generator!r}; torch.Generator().manual_seed(0) is one"
        )
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator: expected one on the CPU, which draws the same for every device, got one on {generator.device}"
        )
    return generator


def batch_generator(seed: int, rank: int, batch: int, *stream: int) -> torch.Generator:
    """The random numbers of a process's batch in a training; different ``stream`` numbers share none.

    Args:
        seed: of the training.
        rank: of the process.
        batch: number of batches trained before.
        stream: what the numbers are for: none for copy-paste, `JITTER_STREAM` for large-scale jitter.
    """
    words = np.random.SeedSequence((seed, rank, batch, *stream)).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Float[ndarray, "..."]:
    """Random numbers in [0, 1)."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
