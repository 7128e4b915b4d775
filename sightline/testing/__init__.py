"""Fakes that pass the real thing's tests, for tests and benchmarks alone."""
