import numpy as np
import pytest
import torch

from composer_copypaste.data.balanced_order import ItemLabels, balanced_order


def labels_of(counts, sizes=None):
    items, labels = np.nonzero(counts)
    sizes = np.ones(len(counts), dtype=int) if sizes is None else np.array(sizes)
    return ItemLabels(sizes, items, labels, counts[items, labels])


def order_of(counts, seed=0, sizes=None):
    return balanced_order(labels_of(counts, sizes), torch.Generator().manual_seed(seed))


def drawn_counts(images=80, labels=8):
    """Most images have one or two labels, the first label is in most images and the last in few."""
    random = np.random.default_rng(5)
    has = random.random((images, labels)) < 0.6 / np.arange(1, labels + 1)
    return has * random.geometric(0.4, (images, labels))


@pytest.mark.parametrize("seed", range(3))
def test_every_item_comes_once(seed):
    assert sorted(order_of(drawn_counts(), seed)) == list(range(80))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.4, 0.5, 0.8])
def test_each_beginning_has_its_share_of_each_label(fraction, seed):
    counts = drawn_counts()
    beginning = order_of(counts, seed)[: round(fraction * len(counts))]
    largest = counts.max(axis=0)
    differences = np.abs(counts[beginning].sum(axis=0) - fraction * counts.sum(axis=0))
    assert (differences <= 1 + largest).all()  # one item decides by how much
    by_chance = [
        np.abs(
            counts[np.random.default_rng(other).permutation(80)[: len(beginning)]].sum(axis=0) / counts.sum(axis=0)
            - fraction
        )
        for other in range(20)
    ]
    assert (differences / counts.sum(axis=0)).mean() < 0.6 * np.mean(by_chance)


def test_a_label_of_two_items_is_in_both_halves():
    counts = drawn_counts()
    counts[:, -1] = 0
    counts[[17, 60], -1] = 1
    for seed in range(6):
        assert len({17, 60} & set(order_of(counts, seed)[:40].tolist())) == 1


def test_seeds_draw_different_items():
    halves = [set(order_of(drawn_counts(), seed)[:40].tolist()) for seed in range(4)]
    shared = [len(one & other) for index, one in enumerate(halves) for other in halves[:index]]
    assert 10 < min(shared) <= max(shared) < 30  # 20 by chance


def test_items_of_any_number_of_objects_are_drawn():
    """An order that only brings the sums near would begin with the items that are like the mean."""
    counts = np.repeat([1, 9], 50)[:, None]
    few = [(order_of(counts, seed)[:20] < 50).sum() for seed in range(5)]
    assert 8 <= np.mean(few) <= 12


def test_a_large_item_does_not_come_first():
    counts, sizes = np.ones((7, 1), dtype=int), [40, 10, 10, 10, 10, 10, 10]
    for seed in range(10):
        before = order_of(counts, seed, sizes).tolist().index(0)
        assert before >= 4


def test_items_of_usual_sizes_stay_in_their_order():
    sizes = [3] * 79 + [1]
    first = [order_of(drawn_counts(), seed, sizes).tolist()[0] for seed in range(3)]
    assert set(first) != {79}


def test_items_of_equal_sizes_stay_in_their_order():
    counts = drawn_counts()
    assert (order_of(counts, 3) == order_of(counts, 3, sizes=[5] * 80)).all()


def test_no_item_and_no_label_are_no_error():
    assert order_of(np.zeros((0, 3), dtype=int)).tolist() == []
    assert sorted(order_of(np.zeros((5, 0), dtype=int))) == [0, 1, 2, 3, 4]


def test_either_of_two_different_items_may_come_first():
    assert {tuple(order_of(np.eye(2, dtype=int), seed)) for seed in range(10)} == {(0, 1), (1, 0)}
