"""Study of the robustness of tuned detection to noise (Barakati et al.)."""
