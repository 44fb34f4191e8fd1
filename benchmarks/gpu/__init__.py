"""What a GPU does, with one command: `python -m benchmarks.gpu --out DIR`, some ten minutes."""
