"""Whole steps of training of the recipe `default` on the CPU: kernels for training against plain PyTorch.

The figures that count are in extra_info, by CPU time: ratios and shares of rates, all taken in turns in one run.
"""

import dataclasses

import pytest
import torch

from ussfast.train.bench import ways
from ussfast.train.recipe import load_recipe


@pytest.mark.parametrize("mixtures", [4, 12])
def test_step(benchmark, mixtures):
    rows = benchmark.pedantic(lambda: ways(load_recipe("default"), mixtures, rounds=5), rounds=1, iterations=1)
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["steps"] = [dataclasses.asdict(row) for row in rows]
    for row in rows:
        print(f"\n{mixtures} mixtures, {row.name}: {row.audio:.1f} s per CPU s, {row.speedup:.2f} x")
