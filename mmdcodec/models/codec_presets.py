"""Published and tiny codecs, as differences from the defaults of Codec.

`ratios` is in the order of the decoder, as in the public EnCodec configs; the
encoder uses it reversed, so (8, 5, 4, 2) are the strides (2, 4, 5, 8).
"""

SOUNDSTREAM = dict(
  topology="soundstream",
  rate=24000,
  channels=1,
  causal=True,
  filters=32,
  ratios=(8, 5, 4, 2),
  dim=128,
  kernel=7,
  last_kernel=3,
  residual_kernel=7,
  dilations=(1, 3, 9),
  compress=1,
  shortcut="identity",
  lstm_layers=0,
  norm="none",
  pad_mode="constant",
  codebooks=8,
  codebook_size=1024,
  quantizer_dropout=1.0,
)

ENCODEC = dict(
  topology="seanet",
  rate=24000,
  channels=1,
  causal=True,
  filters=32,
  ratios=(8, 5, 4, 2),
  dim=128,
  kernel=7,
  last_kernel=7,
  residual_kernel=3,
  dilations=(1,),
  compress=2,
  shortcut="conv",
  lstm_layers=2,
  norm="weight",
  pad_mode="reflect",
  codebooks=32,
  codebook_size=1024,
  quantizer_dropout=1.0,
)

# Numbers chosen for small codecs that train in minutes.
SPECTRAL = dict(
  topology="spectral",
  rate=24000,
  channels=1,
  causal=False,
  ratios=(8, 5, 4, 3),
  dim=64,
  kernel=7,
  width=192,
  expansion=3,
  encoder_blocks=3,
  decoder_blocks=4,
  compression=0.3,
  codebooks=8,
  codebook_size=256,
  decay=0.95,
)

TINY = dict(
  rate=8000,
  filters=4,
  ratios=(5, 4),
  dim=16,
  codebooks=4,
  codebook_size=32,
)

PRESETS = {
  # arXiv 2107.03312, section III: 24 kHz, 75 Hz, 8 x 10 bits = 6 kbps.
  "soundstream_24khz": SOUNDSTREAM,
  # arXiv 2301.11325, section 3.1: stride 480, 50 Hz, 12 x 10 bits = 6 kbps.
  # The strides are not published; these have the right product.
  "soundstream_musiclm": SOUNDSTREAM | dict(ratios=(8, 5, 4, 3), codebooks=12),
  # arXiv 2210.13438: 75 Hz, 1.5 to 24 kbps.
  "encodec_24khz": ENCODEC,
  # The codec of MusicGen (arXiv 2306.05284) and of arXiv 2406.02315: 50 Hz,
  # 2.2 kbps. Padding as in the training config of its authors.
  "encodec_32khz": ENCODEC
  | dict(
    rate=32000,
    causal=False,
    filters=64,
    ratios=(8, 5, 4, 4),
    shortcut="identity",
    pad_mode="constant",
    codebooks=4,
    codebook_size=2048,
    quantizer_dropout=0.0,
  ),
  # arXiv 2210.13438: stereo, 150 Hz, 3 to 24 kbps.
  "encodec_48khz": ENCODEC
  | dict(
    rate=48000,
    channels=2,
    causal=False,
    norm="time_group",
    normalize=True,
    chunk_seconds=1.0,
    overlap=0.01,
    codebooks=16,
  ),
  # 50 Hz, 3.2 kbps, 2.0 M parameters.
  "spectral_small": SPECTRAL,
  # 50 Hz, 0.5 to 4 kbps, 1.4 M parameters: under 4 MB in bfloat16, with its
  # codebooks.
  "spectral_24khz": SPECTRAL
  | dict(
    causal=True,
    width=160,
    codebook_size=1024,
    decay=0.99,
    quantizer_dropout=1.0,
  ),
  # Stereo, 50 Hz, 0.5 to 8 kbps, 19.9 M parameters.
  "spectral_48khz": SPECTRAL
  | dict(
    rate=48000,
    channels=2,
    causal=True,
    ratios=(8, 6, 5, 4),
    dim=128,
    width=512,
    encoder_blocks=4,
    decoder_blocks=6,
    codebooks=16,
    codebook_size=1024,
    decay=0.99,
    quantizer_dropout=1.0,
  ),
  # For tests: the same structures, compiled in seconds.
  "soundstream_tiny": SOUNDSTREAM | TINY,
  "encodec_tiny": ENCODEC | TINY,
  "encodec_stereo_tiny": ENCODEC
  | TINY
  | dict(
    channels=2,
    causal=False,
    norm="time_group",
    normalize=True,
    chunk_seconds=0.1,
    overlap=0.05,
  ),
  "spectral_tiny": SPECTRAL
  | dict(
    rate=8000,
    ratios=(5, 4),
    dim=16,
    kernel=3,
    width=16,
    expansion=2,
    encoder_blocks=2,
    decoder_blocks=2,
    codebooks=4,
    codebook_size=32,
  ),
}
