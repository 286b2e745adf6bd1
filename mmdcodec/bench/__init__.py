"""Benchmarks for `mmdcodec bench`: speed and memory, and their lower bounds.

codec             parts of a codec's training step; coding times encoding and
                  decoding
codecs            encoding and decoding with codecs of all topologies in turns
tokenizers        encoding with tokenizers of all kinds
lm                sampling from a language model
data              crops per second of the input pipeline
loss_estimators   the independence loss compared with the plain formula
timing            medians of runs, in turns
random_inputs     random weights and noise
floor             lower bounds on time: operations and bytes
"""
