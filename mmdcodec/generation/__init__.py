"""Music out of language models: codebook patterns, decoding, prompts."""
