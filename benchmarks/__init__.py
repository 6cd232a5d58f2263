"""Measurements and fault tests of the package, and scripts that fit its models: `python -m benchmarks.NAME`."""
