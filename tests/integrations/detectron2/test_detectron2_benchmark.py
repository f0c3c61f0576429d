"""The benchmark runs, and its numbers are those that were measured."""

import importlib.util
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[3] / "benchmarks"


def test_each_way_trains_and_ratios_are_to_detectron2s_own_loop(monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])  # last: this benchmark has Detectron2's name
    spec = importlib.util.spec_from_file_location("benchmark_of_detectron2", FOLDER / "detectron2.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    trained = []

    def measured(ways, rounds):
        for name, way in ways.items():
            way()
            trained.append(name)
        return {name: 2.0 if "torchvision" in name else 1.0 for name in ways}

    monkeypatch.setattr(benchmark, "best_seconds", measured)
    monkeypatch.setattr(benchmark, "peak_bytes", lambda way: 2**20)
    benchmark.compare(benchmark.Case(2, 64, 2), 1, 1)
    torch.set_num_threads(threads)

    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(trained) == len(lines) == 6
    assert [line.split()[-4:-2] for line in lines] == [["1.00", "0.50"], ["2.00", "1.00"], ["2.00", "1.00"]] * 2
