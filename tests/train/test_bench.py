"""`ussfast bench --train`: the figures belong together; how large they are is the machine's."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from tiny import CAUSAL, tiny_recipe, to_dict

from ussfast._ext import cpu_isa
from ussfast.cli.main import main
from ussfast.errors import InputError
from ussfast.profiling.flops import model_flop
from ussfast.train.bench import batch_of, table, ways
from ussfast.train.recipe import load_recipe


def names():
    kernels = ["kernels, float32"] if cpu_isa() else []
    return ["PyTorch, float32", *kernels, *(["kernels, bfloat16"] if cpu_isa() == "avx512_bf16" else [])]


def test_ways_share_one_measure():
    recipe = load_recipe("default")
    recipe = replace(recipe, model=CAUSAL, mix=replace(recipe.mix, seconds=0.4))
    rows = ways(recipe, mixtures=1, rounds=1)
    assert [row.name for row in rows] == names()
    flop = 3 * model_flop(recipe.model, batch_of(recipe, 1).mixture.shape[1], 3, 1)
    for row in rows:
        assert row.rate * row.seconds == pytest.approx(flop)
        assert row.audio * row.seconds == pytest.approx(recipe.mix.seconds)
        assert row.speedup == pytest.approx(rows[0].seconds / row.seconds)
        assert row.share / row.rate == pytest.approx(rows[0].share / rows[0].rate)
    assert table(rows).count("\n") == 1 + len(rows)


def test_the_command(capsys, tmp_path):
    threads = torch.get_num_threads()
    model = {"architecture": "causal"} | json.loads(json.dumps(to_dict(CAUSAL)))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_recipe() | {"model": model}))
    with pytest.raises(SystemExit) as exit:
        main(["bench", str(tmp_path / "tiny.yaml"), "--train", "--rounds", "5", "--threads", "1", "--json"])
    assert not exit.value.code and torch.get_num_threads() == threads
    facts = json.loads(capsys.readouterr().out)
    assert facts["recipe"] == "tiny" and [step["name"] for step in facts["steps"]] == names()


def test_what_cannot_be_measured():
    with pytest.raises(InputError, match="at least 1, got 0 and 4"):
        ways(load_recipe("default"), rounds=0)
