from shrinkml_env.compression.canonical import digest
from shrinkml_env.compression.store import model_content, recognition_content
from tests.helpers.models import TinyCTC


def test_what_a_model_computes_depends_on_its_decoder_as_well(monkeypatch):
    """Another beam, or other features of a newer library, change what is seen inside a model, but not the model."""
    model = TinyCTC()
    content, inside = digest(model_content(model)), digest(recognition_content(model))
    monkeypatch.setattr(TinyCTC, "decoder_settings", {"search": "beam of 5"})
    assert digest(model_content(model)) == content
    assert digest(recognition_content(model)) != inside
    monkeypatch.undo()
    assert digest(recognition_content(TinyCTC())) == inside
    assert digest(recognition_content(TinyCTC(seed=1))) != inside
