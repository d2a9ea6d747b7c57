"""Stands in for olive-ai, where that is not installed, while a user's script is at work."""
