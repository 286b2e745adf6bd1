"""Vector quantizers, and the loss that makes codebooks independent.

vector         one codebook: nearest code, EMA statistics, k-means, dead codes
               (its `replace_dead` has the rule; a codec's field `threshold`,
               in models/codec_fields.py, has the value)
residual       several codebooks, each coding the residual of the previous one
kmeans         centres of many rows, by k-means++ and Lloyd's algorithm;
               fit_residual fits the levels of a residual quantizer with it
repeats        removal of repeated codes
independence   the independence loss; mmd and dhsic are its estimators, kernels
               its kernels, and rows selects code vectors by a pattern
pairs          sums over all pairs of rows in linear memory; row_blocks, sweep
               and tiles are its parts, pallas_pairs its TPU kernels
derivatives    which derivatives these sums have
gumbel         a code chosen by logits that learn from the gradient (w2v-BERT)
random_projection  frozen random codes as targets (BEST-RQ)
"""
