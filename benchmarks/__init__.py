"""Measurements and fault tests of the package, and the scripts that fitted its bundled models."""
