"""Detections of micrographs in the formats of other tools, written partition by partition."""
