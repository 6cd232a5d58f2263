"""Studies of methods on data with known answers; docs/results.toml lists their results."""
