"""Numbers from a generator on the host: whatever copy-paste draws, it draws through these."""

import torch
from jaxtyping import Float
from numpy import ndarray


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Float[ndarray, "..."]:
    """Numbers from 0 to 1, 1 excluded."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()


def uniform(generator: torch.Generator) -> float:
    """A number from 0 to 1, 1 excluded."""
    return torch.rand((), generator=generator, dtype=torch.float64).item()


def integer(n: int, generator: torch.Generator) -> int:
    """A whole number from 0 to n, n excluded."""
    return int(torch.randint(n, (), generator=generator))
