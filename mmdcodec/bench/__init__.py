"""Benchmarks behind `mmdcodec bench`: speed and memory beside their floors.

codec             the parts of a codec's training step; coding times encode and
                  decode
lm                sampling from a language model, step by step
data              crops per second of the input pipeline
loss_estimators   the independence loss beside the plain formula
floor             the least that a computation needs: operations and bytes
"""
