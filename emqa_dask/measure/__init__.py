"""What the detections say about the specimen: sizes, density, area fraction, swelling; per image and per sample."""
