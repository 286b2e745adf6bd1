"""Networks, without weights.

codec                 the codec: encoder, residual quantizer, decoder.
                      codec_presets has published ones, codec_outputs what it
                      returns, seanet its networks, chunks the 48 kHz EnCodec's
streaming             the codec step by step, with explicit state;
                      receptive_field says which inputs an output depends on
discriminators        sets of spectrum_discriminators and wave_discriminators
token_lm              the language model; lm_presets has published ones
conditioning          conditions to the vectors that it sees. condition is the
                      base class of a kind: text_condition, melody_condition,
                      token_conditions
text_encoder          T5's encoder; text_tokens turns prompts into tokens
code_likelihood       the likelihood of codes under a language model
low_rank              low-rank additions (LoRA)
fields                modules from mappings of their fields
"""
