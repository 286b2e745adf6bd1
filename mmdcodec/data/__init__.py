"""Data sets: records on disk and the pipeline that reads them."""
