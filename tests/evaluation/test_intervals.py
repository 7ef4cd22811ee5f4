import math

from shrinkml_env.evaluation.intervals import Estimate


def test_an_estimate_is_written_with_its_interval():
    estimate = Estimate(0.0123, -0.001, 0.025)
    assert f"{estimate.times(100):+.2f}" == "+1.23 [-0.10, +2.50]"
    assert f"{estimate:.1f}" == "0.0 [-0.0, 0.0]"
    assert str(estimate) == f"{estimate}" == "0.012 [-0.001, 0.025]"
    assert str(Estimate(0.25, math.nan, math.nan)) == "0.250"
