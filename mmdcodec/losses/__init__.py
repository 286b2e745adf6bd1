"""Training losses. The independence loss is in `mmdcodec.quantize`.

spectral        waveform L1, multi-scale mel and STFT losses
adversarial     losses on the logits and features of discriminators
balancer        weights of losses as shares of one gradient
cross_entropy   the loss of language models
contrastive     losses of pairs of embeddings: decoupled, softmax, sigmoid
masking         which frames a network has to predict; hides their audio
contrastive_masked  finds the target of a masked frame among those of others
triplet         the loss of triplets with semi-hard negatives

A new loss of a codec's reconstruction takes three steps: its formula here, its
name in `SPECTRAL` and its value in `mmdcodec/train/reconstruction_losses.py`,
its weight in `configs/common.py`. A loss of latents or codes is added in
`CodecTask.loss` (`mmdcodec/train/codec_task.py`), as commitment and
independence are; one of a language model in `LMTask.loss` (`lm_task.py`).
"""
