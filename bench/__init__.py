"""Benchmarks: how long what must be quick takes, against its budget or an alternative. `make bench` runs them; docs/bench.md says how."""
