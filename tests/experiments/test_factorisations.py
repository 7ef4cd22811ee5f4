"""Searches and sensitivities with another factorisation than the plain SVD."""

import json

import pytest
import torch
from hydra import compose, initialize

from experiments.common.search_run import search
from experiments.sensitivity import sensitivity
from experiments.validate import validate, validate_ranks
from shrinkml_env import compress, load_compressed, load_model, load_utterances
from shrinkml_env.compression import SVD, ActivationAwareSVD
from shrinkml_env.space.sensitivity import Sensitivity


@pytest.fixture
def speech(tmp_path):
    return {"root": str(tmp_path), "subset": "proxy"}


@pytest.fixture
def aware(speech):
    calibration = f"{{root: {speech['root']}, subset: {speech['subset']}}}"
    return ["factorisation=activation_aware", f"factorisation.calibration={calibration}", "factorisation.damping=0.1"]


def test_the_result_of_a_search_is_factored_as_the_search_did(configure, aware, speech, tmp_path, capsys):
    directory = search(configure("agent=random", "budget=4", "finalists=2", *aware), "title")
    assert validate(directory) == []
    assert validate_ranks(directory / "best.json") == []
    record = json.loads((directory / "best.json").read_text())
    assert record["factorisation"] == {
        "name": "activation_aware",
        "calibration": speech,
        "damping": 0.1,
        "form": "factors",
        "share_inputs": False,
        "weigh_rows": False,
        "augmented_copies": 0,
    }
    model = load_model(tmp_path / "model")
    waveforms = [utterance.waveform for utterance in load_utterances(speech)]
    saved = load_compressed(directory / "compressed").state_dict()
    # The model has every factor at the rank that was chosen, and none of the plain SVD's.
    expected, plain = (
        compress(model, record["ranks"], factorisation).state_dict()
        for factorisation in (ActivationAwareSVD(model, waveforms, 0.1), SVD(model))
    )
    factors = [name for name in expected if name.endswith(("_u", "_v"))]
    assert factors
    for name in factors:
        assert torch.equal(saved[name], expected[name])
        assert not torch.equal(saved[name], plain[name])
    capsys.readouterr()


@pytest.mark.slow
def test_the_record_must_say_how_it_was_factored(configure, aware):
    directory = search(configure("agent=random", "budget=2", "finalists=1", *aware), "title")
    record = json.loads((directory / "best.json").read_text())
    for factorisation, message in (None, "lacks factorisation"), ("mine", "no factorisation is named 'mine'"):
        record["factorisation"] = {"name": factorisation}
        if factorisation is None:
            del record["factorisation"]
        (directory / "best.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=message):
            validate_ranks(directory / "best.json")


@pytest.mark.slow
def test_a_sensitivity_tells_its_factorisation(configure, aware, speech, tmp_path):
    sets = f"proxy={{root: {speech['root']}, subset: {speech['subset']}}}"
    common = [f"model={tmp_path / 'model'}", sets, f"outputs={tmp_path / 'sensitivity'}", "search_space.count=2"]
    with initialize(version_base="1.3", config_path="../../conf"):
        path = sensitivity(compose("sensitivity", [*common, *aware])) / "sensitivity.json"
    assert Sensitivity.load(path).factorisation == "activation_aware"
    space = ["search_space=sensitivity", f"search_space.path={path}", "search_space.fatal=9"]
    with pytest.raises(ValueError, match=r"measured with factorisation 'activation_aware', the model .* by 'svd'"):
        search(configure("agent=random", "budget=2", "finalists=1", *space), "plain")
    search(configure("agent=random", "budget=2", "finalists=1", *space, *aware), "aware")
