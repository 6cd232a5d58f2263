"""Predictions to people: triage verdicts and the page."""
