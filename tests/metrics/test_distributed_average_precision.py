from datetime import timedelta

import pytest
import torch
from scenes import CATEGORY_IDS, random_scene
from torch import distributed, multiprocessing

from composer_copypaste.metrics.coco import CocoMeanAveragePrecision

SHARES = {
    "with a repeated picture": (range(9), [0, *range(9, 14)]),
    "with nothing for one": (range(14), []),
}


def numbers(picked):
    scene = random_scene()
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)
    metric.update([scene.predictions[index] for index in picked], [scene.targets[index] for index in picked])
    return {name: float(scalar.compute()) for name, scalar in metric.scalars().items()}


def process(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    torch.save({name: numbers(shares[rank]) for name, shares in SHARES.items()}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    """What each process computed."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(process, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("rank", range(2))
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_every_process_gives_what_one_process_gives_for_all_pictures(of_two_processes, share, rank):
    expected = numbers(range(14))

    assert of_two_processes[rank][share] == pytest.approx(expected, abs=1e-12, nan_ok=True)
