"""The random numbers of a training's batches."""

import itertools

import numpy as np

from composer_copypaste.functional.generators import JITTER_STREAM, batch_generator


def test_no_two_batches_processes_trainings_and_uses_share_a_seed():
    numbers = itertools.product(range(3), range(3), range(3), [(), (JITTER_STREAM,)])
    seeds = [batch_generator(*which, *stream).initial_seed() for *which, stream in numbers]
    assert len({seed >> 32 for seed in seeds}) == len({seed % 2**32 for seed in seeds}) == len(seeds)


def test_a_seed_has_all_64_bits_that_numpy_makes_of_the_numbers():
    """A training that is resumed with a later version draws what it would have drawn."""
    (both_halves,) = np.random.SeedSequence((7, 1, 30)).generate_state(1, np.uint64).tolist()
    low, high = both_halves % 2**32, both_halves >> 32
    assert batch_generator(7, 1, 30).initial_seed() == low << 32 | high
