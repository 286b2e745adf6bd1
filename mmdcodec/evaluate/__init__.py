"""Measures of trained models, one a file; plots and reports.

reconstruction        SI-SDR, mel distance, STFT distance
codebooks             codebook usage, perplexity, entropy, bits per second
dependence            all measures of dependence between codebooks:
                      total_correlation, mutual_information, coded_size and
                      kernel_dependence, over the rows of code_rows
likelihood            bits per frame of a language model; code_entropy has those
                      of unigrams and bigrams
traits                traits of built-in music and classifiers of them
clips                 a codec on a set of clips, and the folder of its results
report                a report as one HTML page; report_template has its frame,
                      reconstruction_report, dependence_report and
                      likelihood_report its pages
figures               what all plots share; audio_plots, codebook_plots,
                      dependence_plots and training_plots draw
"""
