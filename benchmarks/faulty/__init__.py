"""The parts of `benchmarks/faults.py`: what is broken, how, and what counts as harmless."""
