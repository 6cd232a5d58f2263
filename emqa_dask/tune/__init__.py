"""Choice of a detector's settings by rewards, and order maps."""
