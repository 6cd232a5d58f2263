"""Studies of methods on data with known answers (docs/results.toml): `python -m benchmarks.studies.NAME`."""
