"""Select, normalize, match, blend: pure functions on rows of hidden states."""
