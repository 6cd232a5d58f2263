"""Images and detections to features."""
