"""Generates music with language models.

musicgen        a complete music model: prompts in, music out
stage           a language model without codec, one of several in a hierarchy
request         checks a user's request before anything is computed
token_sampler   samples code sequences from a language model, window by window
windows         divides music longer than the training clips into windows
decoding        runs the decoding loop on the device
depth_sampling  samples the codes of a step with a depth transformer
sampling        applies guidance and samples codes from logits
patterns        the public name of `mmdcodec.patterns`
"""
