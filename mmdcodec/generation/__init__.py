"""Generation: codebook patterns."""
