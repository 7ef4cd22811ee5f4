"""The synthetic corpus: sentences, voices, engines, conditions."""
