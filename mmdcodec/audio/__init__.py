"""Audio files, spectra and built-in music.

files          read, write and find audio files
block_io       the same in constant memory, block by block
formats        suffixes, containers, codings and their rates
decoding       opens and decodes files, or parts of them
containers     finds all the sound of a file, of every kind that can be read;
               chunks, ogg_links, flac_frames and mp3_frames know the kinds
windows        part of a file as a file, with another header
levels         which samples are audio
resampling     rates, lengths and channels of arrays
clip_list      converts audio in any accepted form to a list of clips
transforms     STFT, mel and chroma in JAX
kaldi          log-mel features as of speech models
melody         the strongest pitch class of each frame
synth          renders a song from a seed: song_plan, composition, instruments
               and song_captions are its parts; song_files renders many
"""
