"""Data sets: records on disk, random crops, batches.

records           audio data sets: made from a folder by `prepare`.
                  audio_folder, file_pieces and record_writer find, cut and
                  encode the files; captions, fma and musiccaps read labels
record_source     records by index, and what a crop of audio is
token_records     token data sets: the codes of records, for language models
tokenization      makes them; record_encoder encodes the records on all devices
aligned_tokens    token data sets of several tokenizers over the same audio
pipeline          batches of crops of audio
token_batches     batches of crops of codes
record_order      which record comes when: shuffled, weighted, on many hosts
dataset_folder    folders of data sets: complete or absent
"""
