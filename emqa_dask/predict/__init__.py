"""Features to predictions: matching, forest, out-of-domain distance, flags."""
