"""Text to region: the phrases of captions, localised among proposed boxes."""
