"""Overrides of Hydra's that are made of texts."""

import pytest

from experiments.common.compose import compose_config, option_of, override_of


@pytest.mark.parametrize("text", ["plain", "/tmp/a-b/c.d", "/tmp/a (b)", "it's", "a,b=c", "{x}", "[1]", "ä b"])
def test_an_override_of_any_text(text):
    override = override_of("outputs", text)
    assert option_of(override) == "outputs"
    assert compose_config("search", [override]).outputs == text
