"""Tokenizers: trained models that turn audio into codes.

Prompts are tokenized in `mmdcodec/models/text_tokens.py`.

interface      the abstract classes `Tokenizer` and `AudioCodec`
loaded_codec   a codec with its weights: encodes and decodes audio
stereo_codec   a mono codec applied to left and right
clustered      base class of tokenizers whose codes are fitted by k-means to the
               features of a network
windowed       base class of those that embed windows which overlap
long_features  features of clips of any length from a network that takes
               windows of one length
semantic       the semantic tokenizer
mulan          the joint embedding with its weights: embeddings and codes of
               audio and of texts
clap           LAION-CLAP with its weights, used like mulan
melody_embedding  the melody embedding with its weights
loaded_tagger  a tagger of music with its weights
loaded_text    a text encoder with its weights
streamer       encodes audio as it arrives, in blocks of any size
long_clips     codes clips of any length piece by piece in constant memory.
               piecewise handles causal and chunked codecs, window_coder
               handles codecs that look ahead; pieces holds the shared code
validation     checks the arguments of a tokenizer
"""
