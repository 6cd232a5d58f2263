"""Reward-driven choice of a detector's settings."""
