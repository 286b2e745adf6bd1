"""Models with weights that turn audio into codes, ready to use.

interface      what a tokenizer is, and a codec
loaded_codec   a codec with its weights: audio in, codes out, and back
stereo_codec   a mono codec applied to left and right
streamer       coding while the audio arrives, for blocks of any size
long_clips     clips of any length in constant memory, in pieces. piecewise
               chooses how and codes causal codecs and chunks, window_coder
               codecs that look ahead; pieces has what they share
validation     checks of what a user gives to a tokenizer
"""
