"""Passes that make an input readable."""
