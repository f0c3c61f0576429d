"""Numbers from a generator on the host: whatever copy-paste draws, it draws through these."""

import torch
from jaxtyping import Float
from numpy import ndarray


def given_or_default(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or torch's default one where none is given.

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


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Float[ndarray, "..."]:
    """Numbers from 0 to 1, 1 excluded."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()


def integer(n: int, generator: torch.Generator) -> int:
    """A whole number from 0 to n, n excluded."""
    return int(torch.randint(n, (), generator=generator))
