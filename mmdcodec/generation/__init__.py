"""Generates music with language models.

musicgen        a complete music model: prompts in, music out
request         checks a user's request before anything is computed
musiclm         a hierarchy of language models: prompts in, music out.
                musiclm_parts opens its parts and says what does not fit,
                musiclm_request checks requests, musiclm_options has the options
                of sampling, musiclm_stages runs the stages; single_stages runs
                them one at a time
chunks          music in chunks, decoded while later ones are generated
stage           a language model without codec, one of several in a hierarchy
stage_runs      runs a stage over music of any length, in windows or in chunks
story           prompts that change with time
token_sampler   samples code sequences from a language model, window by window
windows         divides music longer than the training clips into windows
decoding        runs the decoding loop on the device
depth_sampling  samples the codes of a step with a depth transformer
sampling        applies guidance and samples codes from logits
patterns        the public name of `mmdcodec.patterns`
"""
