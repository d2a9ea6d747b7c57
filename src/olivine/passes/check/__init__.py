"""Passes that look at a model and give it back."""
