"""Models that pass an image through a code and back."""
