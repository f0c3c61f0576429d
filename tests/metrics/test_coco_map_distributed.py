import pytest
import torch
from forked_runs import leave_process_group  # processes are then copies of one that has imported everything
from metric_scenes import CATEGORY_IDS, random_scene
from torch import distributed, multiprocessing

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

SHARES = {
    "with a repeated image": (range(9), [0, *range(9, 14)]),
    "with nothing for one": (range(14), []),
}
LOOP = [(0, range(5)), (1, range(5, 9)), (1, range(5, 9)), (0, range(9, 14))]
"""Steps of a loop: which process gets which images before both compute twice; the third step repeats images."""


def numbers(picked):
    scene = random_scene()
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)
    metric.update([scene.predictions[index] for index in picked], [scene.targets[index] for index in picked])
    return {name: float(scalar.compute()) for name, scalar in metric.scalars().items()}


def matches_of(picked):
    scene = random_scene()
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)
    metric.update([scene.predictions[index] for index in picked], [scene.targets[index] for index in picked])
    return metric.matches()


def in_a_plain_loop(rank):
    """The numbers after each step of a loop in which one process at a time has something new, or nothing at all."""
    scene = random_scene()
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)

    def update(picked):
        metric.update([scene.predictions[index] for index in picked], [scene.targets[index] for index in picked])

    found = []
    for updating, picked in LOOP:
        if rank == updating:
            update(picked)
        found += [{name: float(value) for name, value in metric.compute().items()} for _ in range(2)]
    if rank == 0:
        metric.reset()  # of this process's images
    found.append({name: float(value) for name, value in metric.compute().items()})
    return found


def process(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    found = {name: numbers(shares[rank]) for name, shares in SHARES.items()}
    matches_of(SHARES["with a repeated image"][rank]).save(folder / f"{rank}.npz")
    torch.save(found | {"plain loop": in_a_plain_loop(rank)}, folder / f"{rank}.pt")
    leave_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    """What each process computed."""
    folder = tmp_path_factory.mktemp("processes")
    # not copies of this process, which may be in a group of Composer's
    multiprocessing.start_processes(process, (folder,), nprocs=2, daemon=True, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") | {"matches": (folder / f"{rank}.npz").read_bytes()} for rank in range(2)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("rank", range(2))
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_every_process_gives_what_one_process_gives_for_all_images(of_two_processes, share, rank):
    expected = numbers(range(14))

    assert of_two_processes[rank][share] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_every_process_counts_what_only_another_was_given_since_the_last_computation(of_two_processes, rank):
    after_each_step = [numbers(range(count)) for count in (5, 9, 9, 14)]
    expected = [found for found in after_each_step for _ in range(2)]

    *found, after_a_reset_of_the_first = of_two_processes[rank]["plain loop"]

    assert found == [pytest.approx(step, abs=1e-12, nan_ok=True) for step in expected]
    assert after_a_reset_of_the_first == pytest.approx(numbers(range(5, 9)), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("rank", range(2))
def test_every_process_gives_the_matches_that_one_process_gives_for_all_images(of_two_processes, tmp_path, rank):
    matches_of(range(14)).save(tmp_path / "matches.npz")

    assert of_two_processes[rank]["matches"] == (tmp_path / "matches.npz").read_bytes()
