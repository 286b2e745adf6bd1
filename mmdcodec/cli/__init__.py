"""The `mmdcodec` command: one file per verb.

A verb parses its arguments, calls the library and prints. `main` finds the
verb and turns a user's mistake into one sentence; `common` has what several
verbs share; `batch` walks folders of files. The verbs `evaluate` and
`experiment` have a file for each of their subjects (`evaluate_lm`, ...).
"""
