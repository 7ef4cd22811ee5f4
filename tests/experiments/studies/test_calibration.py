import pytest
import torch

from experiments.common.compose import compose_config
from experiments.studies import calibration
from experiments.studies.calibration import rank_of, relative_error
from shrinkml_env.compression import Matrix
from tests.helpers.speech import SHIPPED_SPEECH


@pytest.mark.parametrize(("kept", "rank"), [(0.5, 20), (0.999, 59), (0.001, 1)])
def test_ranks_by_the_share_of_the_parameters(kept, rank):
    """In pivoting form 60 x 100 of rank 20 has 20 * (60 + 100 - 20) = 2800 of 6000 parameters, of rank 22 3036."""
    matrix = Matrix("a", 60, 100, "linear", "pivoting")
    found = rank_of(matrix, kept)
    assert matrix.parameters(found) <= kept * 6000 or found == 1
    assert found == 59 or matrix.parameters(found + 1) > kept * 6000
    assert abs(found - rank) <= 1


def test_the_relative_error_is_that_of_the_outputs():
    torch.manual_seed(0)
    weight, product, inputs = torch.randn(3, 4), torch.randn(3, 4), torch.randn(50, 4).double()
    outputs, others = inputs @ weight.double().T, inputs @ product.double().T
    expected = (outputs - others).square().sum() / outputs.square().sum()
    assert relative_error(weight, product, inputs.T @ inputs / 50) == pytest.approx(float(expected))


@pytest.mark.slow
def test_more_speech_calibrates_better(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "cache.sqlite"))
    speech = [f"{name}={{root: {SHIPPED_SPEECH}, subset: dev, limit: 6}}" for name in ("held_out",)]
    overrides = [*speech, "calibration=calibration", "utterances=[1,8]", "damping=[0.01]", "kept=[0.4]"]
    config = compose_config("calibration", [*overrides, f"outputs={tmp_path}"])
    calibration.main.__wrapped__(config)
    few, more = (line.split() for line in capsys.readouterr().out.splitlines()[2:4])
    assert few[:2] == ["1", "0.01"]
    # A single utterance is learned by heart.
    assert float(few[3]) < float(more[3]) < float(more[2]) < float(few[2])
    with pytest.raises(ValueError, match="81 are more than the 80 of calibration"):
        calibration.grid(compose_config("calibration", ["calibration=calibration", "utterances=[81]"]))
