"""`mmdcodec selftest`: whether this device computes what it should, how fast.

Kernels, losses, codecs and language models are compared with float64 NumPy,
other networks with stored numbers. Beside a GPU or TPU, codes and features are
also compared with those of the CPU. Nothing is read but the package, so it runs
wherever that is installed, and takes minutes.

check        a check: what it measures, what is expected, how far it may be off
references   layers and losses in float64 NumPy
reference_codecs
             codecs in float64 NumPy
reference_lm language models in float64 NumPy
spectra      STFT, mel, MDCT, Griffin-Lim
layers       convolutions, folded ones, transposed ones, norms, LSTM
positions    rotary, sinusoidal and relative ones
attending    attention: plain, merged, sliding, splash, of conformers
codes        nearest codes, their statistics, k-means, patterns, sampling,
             entropy coding
losses       the independence losses and their kernels, the balancer
streams      the independence loss of a batch's streams
objectives   spectral, adversarial and contrastive losses, cross-entropy
families     whole models: codecs, tokenizers
language_models
             drawing and training
networks     small networks of all kinds
stored       their outputs, beside what a CPU once computed
training     updates; a step of training, also on several devices
speed        small forms of the benchmarks, with shares of what is possible
training_speed
             the same of training
run          all of it, within some minutes
"""
