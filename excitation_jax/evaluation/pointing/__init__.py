"""The pointing game: is a map's maximum on the object?"""
