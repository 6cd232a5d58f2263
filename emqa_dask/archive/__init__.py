"""What others left us, read only: scan, readers, headers."""
