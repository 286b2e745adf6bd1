"""Music out of language models.

musicgen        a music model ready to use: prompts in, music out
request         what a user may ask for, checked before anything is computed
token_sampler   sequences of codes from a language model, window by window
windows         music longer than the model was trained on
decoding        the decoding loop on the device
sampling        guidance, and one sample from logits
patterns        the public name of `mmdcodec.patterns`
"""
