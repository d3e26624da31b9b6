"""The parts of the benchmarks; each can be run alone."""
