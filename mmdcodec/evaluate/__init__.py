"""Measures of trained models, plots and reports.

reconstruction        SI-SDR, mel distance, STFT distance
visqol                quality as listeners judge it, by another library
artefacts             combs, pre-echo, silence, a sweep, the stereo image
codebooks             codebook usage, perplexity, entropy, bits per second
dependence            all measures of dependence between codebooks:
                      total_correlation, mutual_information, coded_size and
                      kernel_dependence, over the rows of code_rows
likelihood            bits per frame of a language model; code_entropy does the
                      same for unigrams and bigrams
semantic              what tokens say about music: melody_abx compares melodies
                      of melody_pairs by token_distance, probes are linear, as
                      are tag_probes of real music, and mel_tokens are what a
                      tokenizer must beat
joint                 a joint embedding of music and text: its retrieval and
                      zero-shot tagging
melody                how well a melody embedding finds melodies
memorization          whether a model repeats its training music, which
                      token_sets finds
traits                traits of built-in music, and their classifiers;
                      built_in has prompts and songs to learn from
levels                what pieces that share tokens have in common; chroma
                      compares melodies
pairing               whether things are like their own partners, with p
multiple              p-values of several tests at once
bootstrap             confidence intervals
transport             optimal transport between bags of tokens
clips                 runs a codec on clips and stores the results
musiclm               whether pieces of a MusicLM are what was asked for;
                      musiclm_time does so for long pieces (adherence, seams),
                      stage_likelihood for held-out tokens
oracle                true tokens into the stages of a MusicLM
report                a report as one HTML page; used by
                      reconstruction_report, dependence_report, joint_report,
                      likelihood_report, memorization_report, musiclm_report
                      and semantic_report; report_template has the HTML
result_folder         where results.json and the page go; json_values is for
                      the former
figures               what all plots share; used by audio_plots, codebook_plots,
                      dependence_plots and training_plots
"""
