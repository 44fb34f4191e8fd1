"""What a GPU does, with one command: `python -m benchmarks.gpu --out DIR`, an hour at most."""
