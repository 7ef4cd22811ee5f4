from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.build.table import _workload, make
from experiments.common.compose import compose_config
from shrinkml_env import load_utterances
from shrinkml_env.compression import Workload, count_macs
from shrinkml_env.envs.registration import make_tabular_env
from shrinkml_env.space.table import Table
from tests.helpers.fake_evaluator import linear
from tests.helpers.fake_table import TABLE
from tests.helpers.speech import SHIPPED_SPEECH


@pytest.mark.slow
def test_a_table_with_the_best_factors_levels_and_divergences(tmp_path):
    speech = f"{{root: {SHIPPED_SPEECH}, subset: calibration, limit: 3}}"
    sets = [f"{name}={{root: {SHIPPED_SPEECH}, subset: dev, limit: 2}}" for name in ("proxy", "dev", "test")]
    calibration = [f"factorisation.calibration={speech}", f"search_space.calibration={speech}"]
    config = compose_config(
        "table", ["measured=las_small_pivoting", *sets, *calibration, "best=1", "random=1", f"cache={tmp_path}/cache"]
    )
    config.blocks = {"encoder": {"layers": ["encoder.4", "encoder.5"]}, "decoder": {"layers": ["decoder.lstm"]}}
    table = make(config)
    table.save(tmp_path / "table.npz")
    table = Table.load(tmp_path / "table.npz")
    assert table.size == 16
    assert [layer.name for layer in table.layers] == ["encoder", "decoder"]
    assert table.levels == ((0, 1, 2, 3), (0, 1, 2, 3))
    assert table.factorisation["form"] == "pivoting"
    # The last configuration is the original.
    assert table.divergence["proxy"][-1] == 0
    assert (table.divergence["proxy"][:-1] > 0).all()
    assert np.isfinite(table.divergence["dev"]).sum() == (table.edits["dev"] >= 0).sum() < 16
    assert make_tabular_env(reward="divergence", table=table).rewards.argmax() == 15
    # Another evaluator measures for real what the table says: both blocks at the lowest level.
    ranks = table.search_space.ranks([0, 0])
    live = table.evaluator().on(load_utterances(table.utterances["proxy"])).evaluate(ranks)
    assert sum(live.edits) == table.edits["proxy"][0]
    assert live.divergence == pytest.approx(float(table.divergence["proxy"][0]), rel=1e-5)


def test_whispers_utterances_are_of_different_speakers():
    config = compose_config("table", ["measured=whisper_tiny_en"])
    assert config.model == "hf:openai/whisper-tiny.en"
    sets = {name: config[name] for name in ("proxy", "dev", "test")}
    sets["calibration"] = config.factorisation.calibration
    assert {name: len(set(part.ids)) for name, part in sets.items()} == {
        "calibration": 60,
        "proxy": 40,
        "dev": 48,
        "test": 72,
    }
    voices = [{name.split("-")[0] for name in part.ids} for part in sets.values()]
    assert len(set().union(*voices)) == sum(map(len, voices))
    layers = [layer for block in config.blocks.values() for layer in block.layers]
    modules = {"encoder": ("self_attn", "fc1", "fc2"), "decoder": ("self_attn", "encoder_attn", "fc1", "fc2")}
    expected = {f"{side}.layers.{i}.{name}" for side, names in modules.items() for i in range(4) for name in names}
    assert len(layers) == 29
    assert set(layers) == expected | {"decoder.embed_tokens"}


def test_looked_up_rows_cost_what_they_cost_live():
    """Of an embedding that is the output layer as well, whose rows are looked up 50 times on proxy."""
    layers = (linear("first", 32, 27), linear("words", 100, 64))
    positions = {matrix.name: 10 for layer in layers for matrix in layer.matrices}
    (words,) = layers[1].matrices
    whole = Workload(positions, 1000, {words.name: 50})
    live = SimpleNamespace(layers=layers[1:], workload=whole, macs=lambda ranks: count_macs(layers, ranks, whole))
    found = _workload(live)
    for rank in (1, 5, 30):
        assert count_macs(layers[1:], {"words": rank}, found) == live.macs({"words": rank})
    table = replace(TABLE, lookups={"proxy": {"third": 50}})
    name = TABLE.layers[2].matrices[0].name
    table = replace(TABLE, lookups={"proxy": {name: 50}})
    ranks = {"third": 10}
    more = table.evaluator().macs(ranks) - TABLE.evaluator().macs(ranks)
    assert more == 50 * TABLE.layers[2].matrices[0].right_parameters(10)
    assert table.content != TABLE.content == replace(TABLE, lookups={"proxy": {}}).content
