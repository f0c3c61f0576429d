"""What many objects, wide class ids, full banks and full pools cost: no more than what of them is used."""

import tracemalloc
import weakref

import numpy as np
import torch
from copypaste_cases import Pool, block, make_images, target

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.data.cutouts import CutOut, CutOutPool
from composer_copypaste.functional.bank import BankImage, InstanceBank
from composer_copypaste.functional.copypaste import copypaste_batch
from composer_copypaste.functional.layout import SourceObjects, layout_of
from composer_copypaste.functional.overlap import covered_fraction
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.settings import CopyPasteSettings

IN_PLACE = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}


def peak_of(function):
    """The most memory, in bytes, that NumPy and Python take while it runs."""
    function()  # compiles
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_finding_overlapped_objects_among_many_takes_no_memory_for_pairs_of_them():
    n, side = 2000, 64
    corners = np.random.default_rng(0).integers(0, side - 2, (n, 2))
    boxes = np.concatenate([corners, corners + 2], axis=1).astype(np.float64)
    objects = [SourceObjects(CompactMasks.of_planes(torch.zeros(n, side, side, dtype=torch.uint8)), boxes)] * 2
    identity = ((1, 0, 0), (0, 1, 0))
    plan = PastePlan.from_rows([(0, 1, k, identity) for k in range(n)])
    assert peak_of(lambda: layout_of(plan, objects).overlapped) < n * n


def test_objects_are_overlapped_where_their_windows_share_a_pixel_with_a_pasted_one():
    boxes = np.array([[0, 0, 4, 4], [10, 10, 14, 14], [5, 0, 9, 4]], dtype=np.float64)  # windows end a pixel beyond
    objects = [SourceObjects(CompactMasks.of_planes(torch.zeros(3, 16, 16, dtype=torch.uint8)), boxes)] * 3
    landed = PastePlan.from_rows([(2, 1, 0, ((1, 0, 0), (0, 1, 0)))])
    assert layout_of(landed, objects).overlapped.tolist() == [6, 8]


def test_a_place_among_many_boxes_takes_no_memory_for_each_of_them_and_cell():
    boxes = np.random.default_rng(0).uniform(0, 100, (400, 2))
    boxes = np.concatenate([boxes, boxes + 50], axis=1)
    assert peak_of(lambda: covered_fraction(np.array([0.0, 0, 150, 150]), boxes)) < 100e6


def test_the_covered_part_of_a_box_is_the_same_in_strips(monkeypatch):
    boxes = np.array([[0.0, 0, 2, 2], [1, 1, 4, 3], [3, 0, 4, 4], [9, 9, 10, 10]])
    for cells in (1, 4, 10**6):
        monkeypatch.setattr("composer_copypaste.functional.overlap.MOST_CELLS", cells)
        assert covered_fraction(np.array([0.0, 0, 4, 4]), boxes) == 11 / 16


def test_of_a_map_of_many_classes_only_those_copied_get_masks():
    ids = torch.arange(4096).view(64, 64).repeat(2, 1, 1)
    images = torch.zeros(2, 3, 64, 64)
    settings = IN_PLACE | {"p_instance": None, "max_copied_instances": 2, "ignore_index": None}

    def paste():
        return copypaste_batch(images, ids, generator=torch.Generator().manual_seed(1), **settings)

    assert peak_of(paste) < 5 * 4096 * 64  # masks of all would be 32 MiB


def bank_image(n, label=1):
    """What a bank holds of an image with ``n`` objects."""
    bank = InstanceBank(n)
    given = target(*[(1, 1, 3, 3)] * n, labels=[label] * n)
    copypaste_batch(make_images(1), [given], bank=bank, p=0.0)
    return bank.images[0]


def test_a_bank_knows_its_number_of_objects_and_bytes_through_all_that_comes_and_leaves():
    bank, rng = InstanceBank(7), np.random.default_rng(0)
    for _ in range(50):
        bank.add(bank_image(int(rng.integers(1, 5))))
        held = bank.images
        assert len(bank) == sum(map(len, held)) <= 7
        assert bank.nbytes == sum(image.nbytes for image in held)
        assert [bank.first(place) for place in range(len(held))] == np.cumsum([0, *map(len, held)])[:-1].tolist()
    state = bank.state_dict()
    smaller = InstanceBank(3)
    smaller.load_state_dict(state)
    assert len(smaller) == 3
    assert smaller.nbytes == sum(image.nbytes for image in smaller.images)


def test_a_batch_looks_at_no_image_of_a_bank_but_those_it_copies_from(monkeypatch):
    bank = InstanceBank(4096)
    for label in range(1, 101):
        bank.add(bank_image(1, label))
    copypaste_batch(make_images(1), [target()], bank=bank, **IN_PLACE)
    looked = []
    monkeypatch.setattr(BankImage, "to", lambda image, device: looked.append("to"))
    monkeypatch.setattr(BankImage, "nbytes", property(lambda image: looked.append("nbytes") or 0))
    monkeypatch.setattr(BankImage, "__len__", lambda image: looked.append("len") or 1)
    copypaste_batch(make_images(1), [target()], bank=bank, **IN_PLACE)
    assert bank.nbytes > 0
    assert len(looked) < 10


def test_a_read_of_a_pool_counts_no_bytes_of_what_it_keeps(monkeypatch):
    reads = []

    def read(window):
        reads.append(window)
        return torch.zeros(3, 4, 4, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.uint8)

    box = np.array([0.0, 0, 4, 4])
    pool = CutOutPool([CutOut(1, box, 16.0, (4, 4), read)] * 50, megabytes=64 * 3 / 1e6)
    kept = [pool.nbytes for number in range(50) if pool.read(number)]
    assert kept == [64, 128] + [192] * 48
    counted = []
    monkeypatch.setattr("composer_copypaste.data.cutouts._pixels_nbytes", lambda pixels: counted.append(1) or 64)
    pool.read(49)
    assert (len(reads), counted) == (50, [])


def test_a_pool_that_nobody_holds_any_more_is_forgotten():
    pool = Pool((1, torch.zeros(3, 4, 4, dtype=torch.uint8), block(0, 0, 2, 2, size=(4, 4))))
    copypaste_batch(make_images(), [target()] * 2, pool=pool, settings=CopyPasteSettings(p=1.0, p_pool=1.0))
    gone = weakref.ref(pool)
    del pool
    assert gone() is None
