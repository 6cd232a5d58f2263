"""How uncertain a classifier is: entropy, calibration, referral, distribution shift and drift."""
