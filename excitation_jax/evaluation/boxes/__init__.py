"""Boxes of dominant objects, from maps cut off at a threshold."""
