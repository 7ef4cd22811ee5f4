"""The environments: the Markov decision process, its tabular and vector forms, and their registration."""
