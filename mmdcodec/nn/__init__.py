"""Layers.

conv              convolutions of codecs, for whole clips or streams
conv_nd           convolutions of discriminators
norms             weight norm, norms over time, unit vectors
reflect_padding   reflection at the ends of clips
folding           time folded into channels, for narrow layers on TPUs;
                  folded_conv convolves such signals
mdct              lapped transforms of spectral codecs; griffin_lim finds
                  phases for those that code magnitudes
convnext          their blocks
lstm              LSTM layers with explicit state
attention         attention and its projections; splash is its TPU kernel,
                  sliding its form over a window
positions         position encodings
transformer       the decoder Transformer, a scan over blocks (block); cache
                  runs it token by token, with slots as in ring and, on CPUs,
                  kernels as in turned, and forgetting hides tokens in
                  training. encoder attends in both directions
conformer         the conformer of semantic tokenizers, with its
                  conformer_attention
stacked           blocks whose parameters are stacked, run as a scan
"""
