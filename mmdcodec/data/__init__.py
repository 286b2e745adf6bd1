"""Data sets: records on disk, random crops, batches.

records           makes audio data sets from folders, with `prepare`.
                  record_job says of what; audio_folder, audio_sources,
                  file_pieces and record_writer find, cut and encode the files;
                  captions, fma and musiccaps read labels from tables,
                  file_names finds the files that a row names; report says what
                  was made and what was left out
record_shares     makes them in several commands, of blocks of records
                  (record_blocks); beam makes the blocks with Apache Beam
record_source     reads records by index; decodes a part of their audio
shard_files       opens the shards, and notices missing and damaged ones
token_records     token data sets: the codes of records, for language models
tokenization      makes them; token_shards writes a share of them, and
                  record_encoder encodes the records on all devices
aligned_tokens    token data sets of several tokenizers for the same audio
pipeline          batches of audio: what a crop is, gain, mixing, padding
melody_clips      clips with the same melody in other acoustics
texts             texts of clips: captions and random sets of tags
token_batches     batches of codes: what a crop is, conditions, padding
record_order      orders records: shuffled, weighted, on many hosts
dataset_folder    whether a folder may be written, and how records are written
"""
