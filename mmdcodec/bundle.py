"""Trained models on disk, and ready to use.

A bundle is a folder with two or three files and nothing executable in them:

    config.json          {"kind": "codec", "model": {...}, ...}
    model.safetensors    arrays by path, "params/encoder/conv_in/kernel"
    discriminators.safetensors    of a codec trained with them, to train on

`load` opens a bundle, or a training workdir at its best checkpoint.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

import mmdcodec
from mmdcodec.errors import UserError
from mmdcodec.models import blocks, long_clips
from mmdcodec.models import codec as codec_model
from mmdcodec.models.streamer import Streamer

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
DISCRIMINATORS_FILE = "discriminators.safetensors"

# Audio is padded to one of these lengths before it is encoded, so that a folder
# of files compiles a handful of programs and not one for each length. At most
# a fifth of the work is padding.
_STEPS_PER_OCTAVE = 4


def bucket(frames: int) -> int:
  """The next of four sizes per octave: 1..8, 10, 12, 14, 16, 20, 24, ..."""
  if frames <= 2 * _STEPS_PER_OCTAVE:
    return max(frames, 1)
  unit = 1 << ((frames - 1).bit_length() - 3)
  return -(-frames // unit) * unit


class LoadedCodec:
  """A codec with its weights: audio in, codes out, and back.

  Attributes:
    config: dict of the bundle's config.json.
    model: the Linen module.
    variables: its parameters and codebooks.
    rate: Hz. channels: of audio. frame_rate: code frames per second.
    codebooks: number of them. hash: names the weights, 16 hex digits.
  """

  def __init__(self, config: dict, variables: dict):
    """Puts a configuration and its variables together.

    Args:
      config: with `model`, the fields of `Codec`.
      variables: `{"params": ..., "codebook": ...}`.
    """
    self.config = config
    self.model = codec_model.from_config(config["model"])
    self.variables = jax.tree.map(jnp.asarray, variables)
    self.rate, self.channels = self.model.rate, self.model.channels
    self.frame_rate = self.model.frame_rate
    self.codebooks = self.model.codebooks
    self.hash = fingerprint(config, variables)
    self._encode = jax.jit(
      lambda v, x, lengths, codebooks: self.model.apply(
        v, x, lengths, codebooks=codebooks, method="encode"
      ),
      static_argnums=3,
    )
    self._decode = jax.jit(
      lambda v, codes, scale, lengths: self.model.apply(
        v, codes, scale=scale, lengths=lengths, method="decode"
      )
    )

  def encode(
    self,
    x,
    rate: int | None = None,
    *,
    codebooks: int | None = None,
    lengths=None,
    return_scale: bool = False,
  ):
    """Turns audio into codes.

    Args:
      x: NumPy or JAX float audio in [-1, 1]: [samples], [samples, channels] or
        [batch, samples, channels]. Mixed to the codec's channels.
      rate: of x in Hz; resampled if it is not the codec's. None: it is.
      codebooks: use only the first so many.
      lengths: valid samples of each item [batch], if they differ.
      return_scale: also give the loudness of each item, which a normalised
        codec takes out (None from one that does not).

    Returns:
      NumPy int32 codes [batch, frames, codebooks], ceil(samples / stride)
      frames (more if the codec works in chunks that overlap).

    Raises:
      UserError: x is no audio of one of these shapes, or not finite.
    """
    x, lengths = self._prepare(x, rate, lengths)
    self._check_codebooks(codebooks)
    samples, stride = x.shape[1], self.model.stride
    if samples > long_clips.WHOLE * stride and blocks.cuttable(self.model):
      codes, scale = long_clips.encode_array(self, x, lengths, codebooks)
      return (codes, scale) if return_scale else codes
    padded = bucket(-(-samples // stride)) * stride
    x = np.pad(x, ((0, 0), (0, padded - samples), (0, 0)))
    out = self._encode(self.variables, x, lengths, codebooks)
    # The codec's own count: chunks that overlap have more frames than the clip.
    # In NumPy: JAX would compile a slice for every length.
    codes = np.asarray(out.codes)[:, : int(out.lengths.max())]
    if not return_scale:
      return codes
    scale = None if out.scale is None else np.asarray(out.scale)
    if scale is not None and self.model.chunk is not None:
      scale = scale[:, : -(-samples // self.model.chunk[1])]
    return codes, scale

  def decode(self, codes, *, scale=None, length: int | None = None):
    """Turns codes into audio.

    Args:
      codes: [batch, frames, codebooks] or [frames, codebooks]; fewer codebooks
        than the codec has give a coarser sound.
      scale: what `encode` gave, for a normalised codec.
      length: samples to return; all of the frames by default.

    Returns:
      NumPy float32 audio [batch, samples, channels] at the codec's rate.

    Raises:
      UserError: codes of another shape, or outside of the codebook.
    """
    codes = np.asarray(codes)
    codes = codes[None] if codes.ndim == 2 else codes
    if codes.ndim != 3 or not 1 <= codes.shape[2] <= self.codebooks:
      raise UserError(
        f"codes have shape {codes.shape}; expected [batch, frames, codebooks]"
        f" with 1 to {self.codebooks} codebooks."
      )
    size = self.model.codebook_size
    if codes.size and (codes.min() < 0 or codes.max() >= size):
      raise UserError(
        f"codes lie in {codes.min()}..{codes.max()}; this codec's go from 0 to"
        f" {size - 1}."
      )
    frames = codes.shape[1]
    if frames == 0:
      raise UserError("there are no frames to decode.")
    most = self.model.samples_of(frames)
    samples = most if length is None else length
    if not 0 < samples <= most:
      raise UserError(
        f"length is {length}; {frames} frames hold 1 to {most} samples."
      )
    codes = codes.astype(np.int32)
    if frames > long_clips.WHOLE and blocks.cuttable(self.model):
      return long_clips.decode_array(self, codes, scale, samples)
    padded = np.pad(codes, ((0, 0), (0, bucket(frames) - frames), (0, 0)))
    lengths = np.full(len(codes), samples, np.int32)
    y = self._decode(self.variables, padded, scale, lengths)
    return np.asarray(y)[:, :samples]

  def encode_blocks(self, parts, *, codebooks: int | None = None):
    """Turns audio that arrives in pieces into codes, as `encode` would.

    Args:
      parts: iterable of float32 [samples, channels] at the codec's rate and
        with its channels, of any sizes.
      codebooks: use only the first so many.

    Yields:
      (codes int32 [frames, codebooks], scale): joined, the codes are those of
      the whole clip. `scale` is None, or from a normalised codec [chunks]: the
      loudness of each chunk whose first frame is in these codes.

    Raises:
      UserError: there is no audio, or it is not finite.
    """
    self._check_codebooks(codebooks)
    return long_clips.encode_blocks(self, parts, codebooks)

  def decode_blocks(self, parts, *, length: int | None = None):
    """Turns codes that arrive in pieces into audio, as `decode` would.

    Args:
      parts: iterable of (codes [frames, codebooks], scale), of any sizes, as
        `encode_blocks` gives them.
      length: samples to return; all of the frames by default.

    Yields:
      float32 [samples, channels]: joined, the audio of the whole clip.

    Raises:
      UserError: there are no codes, too few for `length`, or not this codec's.
    """
    return long_clips.decode_blocks(self, parts, length)

  def streamer(
    self, batch: int = 1, *, block: int = 32, codebooks: int | None = None
  ) -> Streamer:
    """Codes audio while it arrives: see `mmdcodec.models.streamer`.

    Args:
      batch: number of streams, which start and end independently.
      block: frames of the larger step, taken where so much has arrived.
      codebooks: use only the first so many.

    Raises:
      UserError: the codec looks ahead or must see a clip as a whole.
    """
    self._check_codebooks(codebooks)
    return Streamer(
      self.model, self.variables, batch, block=block, codebooks=codebooks
    )

  def _check_codebooks(self, codebooks):
    if codebooks is not None and not 1 <= codebooks <= self.codebooks:
      raise UserError(
        f"codebooks is {codebooks}; this codec has 1 to {self.codebooks}."
      )

  def _prepare(self, x, rate, lengths):
    """Any accepted audio -> [batch, samples, channels], valid lengths."""
    x = np.asarray(x, np.float32)
    if x.ndim == 1:
      x = x[:, None]
    if x.ndim == 2:
      x = x[None]
    if x.ndim != 3 or x.shape[1] == 0 or not 1 <= x.shape[2] <= 64:
      raise UserError(
        f"audio has shape {x.shape}; expected [samples], [samples, channels]"
        " or [batch, samples, channels], and at least one sample."
      )
    if not np.isfinite(x).all():
      raise UserError("the audio holds NaN or infinite samples.")
    if lengths is None:
      lengths = np.full(len(x), x.shape[1])
    lengths = np.asarray(lengths, np.int64)
    if (
      lengths.shape != x.shape[:1]
      or not ((lengths > 0) & (lengths <= x.shape[1])).all()
    ):
      raise UserError(
        f"lengths must be [batch] samples from 1 to {x.shape[1]}."
      )
    if x.shape[2] != self.channels or rate not in (None, self.rate):
      from mmdcodec.audio import files

      clips = [clip[:n] for clip, n in zip(x, lengths, strict=True)]
      clips = [files.mix(clip, self.channels) for clip in clips]
      if rate not in (None, self.rate):
        clips = [
          files.resample(clip, rate=rate, to=self.rate) for clip in clips
        ]
      lengths = np.array([len(clip) for clip in clips])
      x = np.zeros((len(x), lengths.max(), self.channels), np.float32)
      for row, clip in zip(x, clips, strict=True):
        row[: len(clip)] = clip
    return x, lengths.astype(np.int32)


LOADERS: dict[str, Callable] = {"codec": LoadedCodec}


def flatten(variables: dict) -> dict[str, np.ndarray]:
  """Arrays by path, "params/encoder/conv_in/bias", sorted."""
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  # safetensors writes the buffer as it lies, so it must lie in order.
  return {k: np.asarray(v, order="C") for k, v in sorted(flat.items())}


def fingerprint(config: dict, variables: dict) -> str:
  """Names a model by its settings and weights: 16 hex digits of SHA-256."""
  digest = hashlib.sha256(json.dumps(config["model"], sort_keys=True).encode())
  for name, value in flatten(jax.device_get(variables)).items():
    digest.update(f"{name} {value.shape} {value.dtype}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]


def save(
  folder: str | pathlib.Path,
  config: dict,
  variables: dict,
  *,
  discriminators: dict | None = None,
  force: bool = False,
) -> None:
  """Writes a bundle.

  Args:
    folder: made; it must not hold anything yet, unless force.
    config: JSON-able, with `kind` and `model`.
    variables: nested dicts of arrays.
    discriminators: parameters, if the model was trained with some.
    force: replace a bundle that is there.

  Raises:
    UserError: the folder is in use.
  """
  import safetensors.numpy

  config = {**config, "mmdcodec": mmdcodec.__version__}
  arrays = {WEIGHTS_FILE: variables, DISCRIMINATORS_FILE: discriminators}
  with replacing(folder, (CONFIG_FILE, *arrays), force=force) as fresh:
    (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    for name, tree in arrays.items():
      if tree is not None:
        safetensors.numpy.save_file(flatten(jax.device_get(tree)), fresh / name)


@contextlib.contextmanager
def replacing(
  folder: str | pathlib.Path,
  names: Sequence[str],
  *,
  force: bool = False,
  what: str = "bundle",
) -> Iterator[pathlib.Path]:
  """A folder to write to, which takes its place when all is in it.

  Args:
    folder: made; it must not hold anything yet, unless force.
    names: of the files; a folder with the first of them and nothing but these
      may be replaced.
    force: replace it.
    what: it is, for the error.

  Yields:
    A folder beside it. Who opens `folder` finds all of it or none.

  Raises:
    UserError: the folder is in use.
  """
  folder = pathlib.Path(folder).resolve()
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    ours = names[0] in found and found <= {*names}
    if not (force and ours):
      raise UserError(
        f"{folder} exists already; "
        + (
          f"give --force to replace the {what} in it."
          if ours
          else f"it is no {what}, so choose another name."
        )
      )
  folder.parent.mkdir(parents=True, exist_ok=True)
  fresh = pathlib.Path(tempfile.mkdtemp(prefix=".bundle-", dir=folder.parent))
  fresh.chmod(0o755)
  try:
    yield fresh
  except BaseException:
    shutil.rmtree(fresh)
    raise
  if folder.exists():
    shutil.rmtree(folder)
  fresh.rename(folder)


def export(
  workdir: str | pathlib.Path,
  folder: str | pathlib.Path,
  *,
  step: int | None = None,
  force: bool = False,
) -> int:
  """Makes a bundle of a training run.

  Args:
    workdir: of the run.
    folder: of the bundle.
    step: which checkpoint; the best one by default, the last if none was
      evaluated.
    force: replace a bundle that is there.

  Returns:
    The step that was exported.
  """
  config, variables, discriminators = _read_workdir(pathlib.Path(workdir), step)
  save(folder, config, variables, discriminators=discriminators, force=force)
  return config["training"]["step"]


def _read_json(path: pathlib.Path) -> dict:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"{path} can't be read as JSON: {error}.") from None


def _read_workdir(
  workdir: pathlib.Path, step: int | None = None
) -> tuple[dict, dict, dict | None]:
  from mmdcodec.train import program, settings
  from mmdcodec.train.checkpoint import Checkpoints

  training = _read_json(workdir / settings.CONFIG_FILE)
  task = program.make_task(training)
  checkpoints = Checkpoints(
    workdir, best=task.best, best_mode=task.best_mode, read_only=True
  )
  try:
    if step is None:
      step = checkpoints.best_step()
    state = checkpoints.restore_arrays(step)
    step = int(state["step"])
  finally:
    checkpoints.close()
  params = state["params"] if state["ema"] is None else state["ema"]
  config = {
    "kind": training["task"],
    "model": training["model"],
    "training": {"step": step, "config": training},
  }
  carried = state.get("carried") or {}
  discriminators = carried.get("adversary", {}).get("params")
  return config, {"params": params, **state["collections"]}, discriminators


def _read_arrays(path: pathlib.Path) -> dict:
  """Nested dicts of the arrays in a safetensors file."""
  import safetensors
  import safetensors.numpy

  try:
    flat = safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise UserError(f"{path} is damaged: {error}.") from None
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _read(path: str | pathlib.Path) -> tuple[dict, dict, dict | None]:
  """Configuration, variables, discriminators or None."""
  from mmdcodec import convert
  from mmdcodec.convert import hub

  path = hub.find(path)
  if (path / CONFIG_FILE).is_file():
    config = _read_json(path / CONFIG_FILE)
    if convert.is_public(config):
      return *convert.read(path), None
  if (path / WEIGHTS_FILE).is_file():
    discriminators = None
    if (path / DISCRIMINATORS_FILE).is_file():
      discriminators = _read_arrays(path / DISCRIMINATORS_FILE)
    config = _read_json(path / CONFIG_FILE)
    return config, _read_arrays(path / WEIGHTS_FILE), discriminators
  if (path / CONFIG_FILE).is_file():
    return _read_workdir(path)
  raise UserError(
    f"{path} is no model: expected a bundle (a folder with {CONFIG_FILE} and"
    f" {WEIGHTS_FILE}) or the --workdir of a training run."
  )


def load_variables(path: str | pathlib.Path) -> tuple[dict, dict | None]:
  """What a bundle or workdir holds for further training, as NumPy arrays.

  Args:
    path: of a bundle or workdir.

  Returns:
    Parameters and collections of the model; parameters of its discriminators,
    or None.
  """
  return _read(path)[1:]


def load(path: str | pathlib.Path) -> Any:
  """Opens a trained model.

  Args:
    path: of a bundle, or of a training workdir (its best checkpoint, averaged
      weights if the run keeps them). Or of public weights that
      `mmdcodec.convert` knows, or their id on the Hugging Face Hub,
      "facebook/encodec_24khz".

  Returns:
    A `LoadedCodec`.

  Raises:
    UserError: there is no model at the path, or it is damaged.
  """
  config, variables, _ = _read(path)
  kind = config.get("kind")
  if kind not in LOADERS:
    raise UserError(
      f"{path} holds a model of kind {kind!r}; this version knows"
      f" {sorted(LOADERS)}."
    )
  model = LOADERS[kind](config, variables)
  _check_complete(path, model)
  return model


def _check_complete(path, model: LoadedCodec) -> None:
  """Every array that the model needs is there, in its shape."""
  x = jnp.zeros((1, model.model.stride, model.channels))
  wanted = jax.eval_shape(model.model.init, jax.random.key(0), x)
  wanted = flax.traverse_util.flatten_dict(wanted, sep="/")
  found = flax.traverse_util.flatten_dict(model.variables, sep="/")
  wrong = sorted(
    name
    for name in {*wanted, *found}
    if name not in wanted
    or name not in found
    or wanted[name].shape != found[name].shape
  )
  if wrong:
    raise UserError(
      f"the weights of {path} do not fit its config: {', '.join(wrong[:5])}"
      + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
      + " missing, left over or of another shape."
    )
