"""An order of a data set whose every beginning is a small copy of the whole, by category.

The first tenth of the order holds about a tenth of each category's objects, the first quarter a quarter, and so on.
Cutting the order in different places therefore gives nested fractions, and disjoint parts, that are stratified.

For several labels per item, which exact strata cannot be had for, Sechidis et al. ("On the Stratification of
Multi-Label Data", 2011) deal items out by their rarest label. Here pairs of items with the same rarest label are
divided between the two halves of the order, by chance, and then exchanged as long as that evens out the labels; each
half is divided in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

FINEST_BLOCKS = 4096
"""With more items than this, blocks of a few neighbours stay in random order: no fraction is that fine."""
MOST_TRIES, TRIED_ITEMS = 8, 4000
"""The largest number of orders that are tried, and the largest number of items in all of them: where there are many
items, one order is as good as another."""
USUAL_CUTS = (0.05, 0.1, 0.25, 0.5)
"""Fractions that are often asked for. They decide between orders whatever is asked for, so fractions are nested."""
LARGE_ITEM = 2
"""An item is unusually large that has more than this times as many images as the mean."""
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


def balanced_order(
    labels: ItemLabels, generator: torch.Generator, cuts: Sequence[float] = USUAL_CUTS
) -> Int[ndarray, " n"]:
    """The items in an order in which each label is spread as evenly as possible over the images.

    Args:
        labels: what the items have.
        generator: of the order that chance gives, from which the balancing starts.
        cuts: shares of the images. Of several orders of few items, that is taken which is balanced best when it is cut
            after these shares.
    """
    if not len(labels.sizes):
        return np.arange(0)
    tries = max(1, min(MOST_TRIES, TRIED_ITEMS // len(labels.sizes)))
    orders = [_balance_by_chance(labels, generator) for _ in range(tries)]
    return min(orders, key=lambda order: _imbalance(labels, order, cuts))


def _balance_by_chance(labels: ItemLabels, generator: torch.Generator) -> Int[ndarray, " n"]:
    ranks = torch.randperm(len(labels.sizes), generator=generator).numpy()
    balance = _Balance(labels, ranks)
    order = np.concatenate(balance.arrange(np.argsort(ranks), np.zeros(balance.num_labels)))
    return _with_large_items_later(order, labels.sizes)


def _imbalance(labels: ItemLabels, order: Int[ndarray, " n"], cuts: Sequence[float]) -> float:
    """The sum over cuts and labels of the squared difference between a label's share and the share of the images."""
    ends = nearest_cuts(labels.sizes[order], cuts)
    place = np.argsort(order)[labels.items]
    totals = np.bincount(labels.labels, labels.counts)
    seen = totals > 0
    found = [np.bincount(labels.labels, labels.counts * (place < end), len(totals))[seen] for end in ends]
    images = [labels.sizes[order[:end]].sum() / labels.sizes.sum() for end in ends]
    return sum(float(((count / totals[seen] - share) ** 2).sum()) for count, share in zip(found, images, strict=True))


def nearest_cuts(sizes: Int[ndarray, " n"], shares: Sequence[float]) -> list[int]:
    """After how many items each of these shares of all images is reached as nearly as possible."""
    images = np.concatenate([[0], np.cumsum(sizes)])
    return [len(sizes) - int(np.abs(images - share * images[-1])[::-1].argmin()) for share in shares]


def _with_large_items_later(order: Int[ndarray, " n"], sizes: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """The order in which an unusually large item waits until the items before it have as many images as it has.

    Otherwise a group of many images at the beginning could be more than a small fraction. Where only such items are
    left, the smallest comes first.
    """
    placed: list[int] = []
    waiting: list[tuple[int, int, int]] = []
    images, usual, largest = 0, LARGE_ITEM * sizes.mean(), int(sizes.max())
    for place, item in enumerate(order.tolist()):
        if images >= largest:
            rest = order[place:].tolist()
            break
        heappush(waiting, (int(sizes[item]), place, item))
        while waiting and waiting[0][0] <= max(images, usual):
            size, _, item = heappop(waiting)
            placed.append(item)
            images += size
    else:
        rest = []
    return np.array([*placed, *(item for _, _, item in sorted(waiting)), *rest])


@dataclass(frozen=True)
class _Pairs:
    """What changes in each label when the two items of a pair are exchanged, as shares of all; entries as in items."""

    sizes: ndarray
    """For each pair, of the images."""
    pairs: ndarray
    labels: ndarray
    shares: ndarray

    def exchanged_until_even(self, signs: ndarray, ahead: ndarray) -> ndarray:
        """The signs after all exchanges that bring ``ahead``, how far each label is ahead of the images, nearer to 0.

        A sign is 1 where a pair's first item comes first, else -1.
        """
        signs, ahead, count = signs.copy(), ahead.copy(), len(self.sizes)
        sums = np.bincount(self.pairs, self.shares, count)
        squares = np.bincount(self.pairs, self.shares**2, count)
        norms = squares - 2 * self.sizes * sums + len(ahead) * self.sizes**2
        while len(self.pairs):
            along = np.bincount(self.pairs, self.shares * ahead[self.labels], count) - self.sizes * ahead.sum()
            gains = 2 * signs * along - norms
            best = gains.argmax()
            if gains[best] <= SMALLEST_GAIN:
                break
            start, end = self.pairs.searchsorted([best, best + 1])
            ahead += signs[best] * self.sizes[best]
            ahead[self.labels[start:end]] -= signs[best] * self.shares[start:end]
            signs[best] = -signs[best]
        return signs


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

    def arrange(self, block: ndarray, before: ndarray) -> list[ndarray]:
        """The block in order, in pieces. ``before`` is how far each label is ahead of the images before the block."""
        if len(block) <= self.smallest_block:
            return [block[np.argsort(self.ranks[block])]]
        entries, positions = self._entries_of(block)
        first = self._choose_first_half(block, before, entries, positions)
        of_first = entries[first[positions]]
        ahead = before + np.bincount(self.labels[of_first], self.shares[of_first], self.num_labels)
        ahead -= self.sizes[block[first]].sum()
        return [*self.arrange(block[first], before), *self.arrange(block[~first], ahead)]

    def _entries_of(self, block: ndarray) -> tuple[ndarray, ndarray]:
        """The entries of these items, and for each entry the position of its item in the block."""
        starts = self.starts[block]
        lengths = self.starts[block + 1] - starts
        positions = np.repeat(np.arange(len(block)), lengths)
        return np.arange(len(positions)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths), positions

    def _choose_first_half(self, block: ndarray, before: ndarray, entries: ndarray, positions: ndarray) -> ndarray:
        """Which items come first: one of each pair, so that with those before the block all labels are balanced."""
        ranks = self.ranks[block]
        by_stratum = np.lexsort((ranks, self.strata[block]))
        pair_of, second = np.empty(len(block), dtype=np.int64), np.zeros(len(block), dtype=bool)
        pair_of[by_stratum] = np.arange(len(block)) // 2
        second[by_stratum[1::2]] = True

        direction = np.where(second, -1.0, 1.0)
        cells, cell_of = np.unique(pair_of[positions] * self.num_labels + self.labels[entries], return_inverse=True)
        pairs = _Pairs(
            sizes=np.bincount(pair_of, direction * self.sizes[block]),
            pairs=cells // max(self.num_labels, 1),
            labels=cells % max(self.num_labels, 1),
            shares=np.bincount(cell_of, direction[positions] * self.shares[entries], len(cells)),
        )
        by_chance = _signs_by_chance(ranks[by_stratum])
        first = (by_chance[pair_of] > 0) != second
        of_first = entries[first[positions]]
        ahead = before + np.bincount(self.labels[of_first], self.shares[of_first], self.num_labels)
        signs = pairs.exchanged_until_even(by_chance, ahead - self.sizes[block[first]].sum())
        return (signs[pair_of] > 0) != second


def _signs_by_chance(ranks: ndarray) -> ndarray:
    """For each pair 1 where the first of its two ranks is lower, else -1; 1 for a single one that is odd."""
    signs = np.where(ranks[0 : len(ranks) - 1 : 2] < ranks[1::2], 1, -1)
    return signs if len(ranks) % 2 == 0 else np.append(signs, 1 if ranks[-1] % 2 else -1)
