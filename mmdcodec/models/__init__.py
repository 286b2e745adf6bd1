"""Networks, without weights.

codec                 the codec: encoder, residual quantizer, decoder. Its parts
                      are codec_fields, codec_presets, codec_outputs, its
                      networks (seanet, or spectral_networks with
                      spectral_bins or spectral_magnitudes) and chunks (coding
                      in chunks, for the 48 kHz EnCodec)
streaming             the codec step by step, with explicit state;
                      receptive_field computes which inputs an output needs
discriminators        sets of spectrum_discriminators and wave_discriminators
token_lm              the language model; lm_presets has published ones
depth                 a small Transformer over the codes of a step, in place
                      of a language model's heads
conditioning          turns conditions into vectors. condition has the base
                      class of text_condition, melody_condition and
                      token_conditions
text_tokens           tokenizes prompts and captions: bytes, the pieces of T5 or
                      RoBERTa, or BERT's word_pieces
text_encoder          T5's encoder
bert                  the encoder of BERT and RoBERTa
melody_embedding      the embedding of melodies; it can hear intervals
musicnn               a tagger of music
clap                  LAION-CLAP, a joint embedding of audio and text, with its
                      audio tower htsat
semantic              the network of semantic tokens, after a mel_front_end.
                      objective_w2v_bert and objective_best_rq train it;
                      semantic_outputs has what it passes to them
semantic_networks     which network a semantic tokenizer has: that one, or a
                      public one: w2v_bert, hubert (also MERT), musicfm
code_likelihood       the likelihood of codes under a language model
mulan                 the joint embedding of music and text: an audio tower
                      (spectrogram_transformer or resnet) and a text_tower;
                      embedding_mapper makes texts look like audio to it
low_rank              low-rank adaptation (LoRA)
fields                builds modules from mappings of their fields
weights               checks that weights from a file fit a model's config
"""
