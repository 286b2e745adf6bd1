"""The `mmdcodec` command, with one file per verb.

A verb parses its arguments, calls the library and prints. `main` dispatches to
verbs and reports user errors in one sentence; `common` has what several verbs
share; `batch` processes folders of files; `streams` has stdin, stdout and
stderr; `musiclm_table` describes the parts of a MusicLM. The verbs `evaluate`
and `experiment` have a file for each of their subjects (`evaluate_lm`, ...).
"""
