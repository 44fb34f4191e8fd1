"""Each operation again in plain PyTorch: the definition, and the oracle of the tests."""
