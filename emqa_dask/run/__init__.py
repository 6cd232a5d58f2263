"""Knows tasks, not micrographs: executor, cluster, progress."""
