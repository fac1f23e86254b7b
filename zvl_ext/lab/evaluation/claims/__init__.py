"""What the evidence decides about: claims by subject, each with a stated rule."""
