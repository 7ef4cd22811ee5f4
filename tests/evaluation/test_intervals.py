import math

from shrinkml_env.evaluation.intervals import Estimate


def test_an_estimate_is_written_with_its_interval():
    estimate = Estimate(0.0123, -0.001, 0.025)
    assert f"{estimate.times(100):+.2f}" == "+1.23 [-0.10, +2.50]"
    assert f"{estimate:.1f}" == "0.0 [-0.0, 0.0]"
    assert str(estimate) == f"{estimate}" == "0.012 [-0.001, 0.025]"
    assert str(Estimate(0.25, math.nan, math.nan)) == "0.250"


def test_an_estimate_as_json_has_no_nan():
    assert Estimate(0.5, math.nan, math.nan).to_json() == {"value": 0.5, "low": None, "high": None}
    assert Estimate(0.5, 0.25, 0.75).to_json() == {"value": 0.5, "low": 0.25, "high": 0.75}
