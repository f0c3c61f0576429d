"""An order of a data set whose every beginning is a small copy of the whole, by category.

The first tenth of the order holds about a tenth of each category's objects, the first quarter a quarter, and so on.
Cutting the order in different places therefore gives nested fractions, and disjoint parts, that are stratified.

For several labels per item, which exact strata cannot be had for, Sechidis et al. ("On the Stratification of
Multi-Label Data", 2011) deal items out by their rarest label. Here pairs of items with the same rarest label are
divided between the two halves of the order, by chance, and then exchanged as long as that evens out the labels; each
half is divided in the same way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

FINEST_BLOCKS = 4096
"""Of more items than this, blocks of a few neighbours stay in random order: no fraction is that fine."""
SMALLEST_GAIN = 1e-12
"""Exchanges that even out less than this are rounding errors."""


@dataclass(frozen=True)
class ItemLabels:
    """How often each item has each label, without the zeros: entry ``e`` is item, label and count.

    An item is what is put in order as a whole: an image, or several. ``sizes`` has each item's number of images.
    """

    sizes: Int[ndarray, " n"]
    items: Int[ndarray, " e"]
    """Ascending."""
    labels: Int[ndarray, " e"]
    counts: Int[ndarray, " e"]


def balanced_order(labels: ItemLabels, generator: torch.Generator) -> Int[ndarray, " n"]:
    """The items in an order in which each label is spread as evenly as possible over the images."""
    if not len(labels.sizes):
        return np.arange(0)
    ranks = torch.randperm(len(labels.sizes), generator=generator).numpy()
    balance = _Balance(labels, ranks)
    order = np.concatenate(balance.arrange(np.argsort(ranks), np.zeros(balance.num_labels)))
    return _with_large_items_later(order, labels.sizes)


def _with_large_items_later(order: Int[ndarray, " n"], sizes: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """The order in which an item waits until the items before it have as many images as it has.

    A group of many images at the beginning would be more than a small fraction. Where nothing else is left, the
    smallest waiting item comes first.
    """
    placed: list[int] = []
    waiting: list[int] = []
    images, largest = 0, int(sizes.max())
    for place, item in enumerate(order.tolist()):
        if images >= largest:
            return np.array([*placed, *order[place:].tolist()])
        waiting = sorted([*waiting, item], key=lambda waits: sizes[waits])  # stable: equal sizes keep their order
        while waiting and (sizes[waiting[0]] <= images or (not images and sizes[waiting[0]] == sizes.min())):
            item = waiting.pop(0)
            placed.append(item)
            images += int(sizes[item])
    return np.array([*placed, *waiting])


class _Balance:
    """Halves blocks of items so that each label's share of its total grows as the share of the images does."""

    def __init__(self, labels: ItemLabels, ranks: Int[ndarray, " n"]) -> None:
        items = len(labels.sizes)
        self.num_labels = int(labels.labels.max(initial=-1)) + 1
        self.smallest_block = max(1, items // FINEST_BLOCKS)
        self.ranks = ranks
        self.labels, self.starts = labels.labels, np.searchsorted(labels.items, np.arange(items + 1))
        totals = np.bincount(labels.labels, labels.counts, self.num_labels)
        self.shares = labels.counts / totals[labels.labels]
        self.sizes = labels.sizes / labels.sizes.sum()
        self.strata = self._rarest_labels(labels)

    def _rarest_labels(self, labels: ItemLabels) -> Int[ndarray, " n"]:
        """For each item, how rare its rarest label is: 0 for the rarest of all."""
        frequency = np.bincount(labels.labels, minlength=self.num_labels)
        rarity = np.argsort(np.argsort(frequency, kind="stable"))
        strata = np.full(len(labels.sizes), self.num_labels)
        np.minimum.at(strata, labels.items, rarity[labels.labels])
        return strata

    def arrange(self, block: Int[ndarray, " n"], before: Float[ndarray, " l"]) -> list[Int[ndarray, " m"]]:
        """The block in order, in pieces. ``before`` is how far each label is ahead of the images before the block."""
        if len(block) <= self.smallest_block:
            return [block[np.argsort(self.ranks[block])]]
        first = self._choose_first_half(block, before)
        halves = block[first], block[~first]
        ahead = before + self._sum_of(halves[0])
        return [*self.arrange(halves[0], before), *self.arrange(halves[1], ahead)]

    def _sum_of(self, block: Int[ndarray, " n"]) -> Float[ndarray, " l"]:
        """How much further each label gets with these items than the images do, as shares of the totals."""
        entries, _ = self._entries_of(block)
        return np.bincount(self.labels[entries], self.shares[entries], self.num_labels) - self.sizes[block].sum()

    def _entries_of(self, block: Int[ndarray, " n"]) -> tuple[Int[ndarray, " e"], Int[ndarray, " e"]]:
        """The entries of these items, and for each entry the position of its item in the block."""
        lengths = self.starts[block + 1] - self.starts[block]
        positions = np.repeat(np.arange(len(block)), lengths)
        offsets = np.arange(len(positions)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.starts[block][positions] + offsets, positions

    def _choose_first_half(self, block: Int[ndarray, " n"], before: Float[ndarray, " l"]) -> Bool[ndarray, " n"]:
        """Which items come first: one of each pair, so that with those before the block all labels are balanced."""
        by_stratum = np.lexsort((self.ranks[block], self.strata[block]))
        pairs = np.empty(len(block), dtype=np.int64)
        pairs[by_stratum] = np.arange(len(block)) // 2
        second = np.zeros(len(block), dtype=bool)
        second[by_stratum[1::2]] = True
        differences = _PairDifferences(self, block, pairs, second)
        drawn = differences.drawn_signs()
        ahead = before + self._sum_of(block[(drawn[pairs] > 0) != second])
        signs = differences.balance(drawn, ahead)
        return (signs[pairs] > 0) != second


class _PairDifferences:
    """What changes when the two items of a pair are exchanged."""

    def __init__(
        self, balance: _Balance, block: Int[ndarray, " n"], pairs: Int[ndarray, " n"], second: Bool[ndarray, " n"]
    ) -> None:
        self.count = int(pairs.max()) + 1
        self.num_labels = balance.num_labels
        direction = np.where(second, -1.0, 1.0)
        self.sizes = np.bincount(pairs, direction * balance.sizes[block], self.count)
        entries, positions = balance._entries_of(block)
        cells, where = np.unique(pairs[positions] * self.num_labels + balance.labels[entries], return_inverse=True)
        self.pairs, self.labels = cells // max(self.num_labels, 1), cells % max(self.num_labels, 1)
        self.shares = np.bincount(where, direction[positions] * balance.shares[entries], len(cells))
        self._ranks = np.zeros((2, self.count), dtype=np.int64)
        self._ranks[second.astype(int), pairs] = balance.ranks[block] + 1

    def drawn_signs(self) -> Int[ndarray, " p"]:
        """For each pair by chance 1 where its first item comes first, -1 where its second does."""
        single = self._ranks[1] == 0
        by_chance = np.where(single, self._ranks[0] % 2 == 0, self._ranks[0] < self._ranks[1])
        return np.where(by_chance, 1, -1)

    def balance(self, signs: Int[ndarray, " p"], ahead: Float[ndarray, " l"]) -> Int[ndarray, " p"]:
        """The signs after all exchanges that bring ``ahead``, the sum that they lead to, nearer to zero."""
        signs, ahead = signs.copy(), ahead.copy()
        sums = np.bincount(self.pairs, self.shares, self.count)
        squares = np.bincount(self.pairs, self.shares**2, self.count)
        norms = squares - 2 * self.sizes * sums + self.num_labels * self.sizes**2
        while len(self.pairs):
            along = np.bincount(self.pairs, self.shares * ahead[self.labels], self.count) - self.sizes * ahead.sum()
            gains = 2 * signs * along - norms
            best = int(gains.argmax())
            if gains[best] <= SMALLEST_GAIN:
                break
            ahead -= signs[best] * self._vector(best)
            signs[best] = -signs[best]
        return signs

    def _vector(self, pair: int) -> Float[ndarray, " l"]:
        of_pair = slice(*np.searchsorted(self.pairs, [pair, pair + 1]))
        vector = np.full(self.num_labels, -self.sizes[pair])
        vector[self.labels[of_pair]] += self.shares[of_pair]
        return vector
