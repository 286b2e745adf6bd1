"""Audio files, spectra and built-in music.

files          read, write and find audio files
block_io       the same in constant memory, block by block
formats        suffixes, containers, codings and their rates
decoding       opens and decodes files; truncation and mp3_frames check
               whether they are complete
resampling     rates, lengths and channels of arrays
clip_list      converts audio in any accepted form to a list of clips
transforms     STFT, mel and chroma in JAX
melody         the strongest pitch class of each frame
synth          renders a song from a seed: song_plan, composition, instruments
               and song_captions are its parts; song_files renders many
"""
