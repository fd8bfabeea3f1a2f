"""Benchmarks: the times of what must be quick, compared with a budget or an alternative. `make bench` runs them; see docs/bench.md."""
