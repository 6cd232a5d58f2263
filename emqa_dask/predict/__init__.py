"""How good the detections of an image are: predicted F1, precision and recall, intervals, reasons, calibration."""
