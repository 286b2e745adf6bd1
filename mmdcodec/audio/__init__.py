"""Audio files, spectra and built-in music.

files          read, write and find audio files
block_io       the same in constant memory, block by block
formats        suffixes, containers, codings and their rates
decoding       opening and decoding; truncation and mp3_frames find out
               whether a file is complete
resampling     rates, lengths and channels of arrays
clip_list      audio in any form that a user may give, as a list of clips
transforms     STFT, mel and chroma in JAX
melody         the strongest pitch class of each frame
synth          renders a song from a seed: song_plan, composition, instruments
               and song_captions are its parts, song_files renders many
"""
