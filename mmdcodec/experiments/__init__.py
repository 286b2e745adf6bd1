"""Experiments that one command runs from data to table.

arm_grid        codecs with and without the independence loss, over seeds:
                arms says which, arm_run trains and measures one, arm_report and
                arm_plots put them together
factorization   language models over the same codes under several patterns
prompts         whether generated music has what its prompt asked for
tables          cells and tables as text
"""
