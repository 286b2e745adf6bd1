"""Vector quantizers and the losses on their codebooks."""
