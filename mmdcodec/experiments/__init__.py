"""Experiments that one command runs from data to tables.

arm_grid        codecs with and without the independence loss, over seeds: arms
                defines them, arm_run trains and measures one, arm_report and
                arm_plots compare them
factorization   language models over the same codes under several patterns
prompts         whether generated music follows its prompts
hierarchy       the same for the levels of MusicLM: what each of them carries
tables          formats tables as text
"""
