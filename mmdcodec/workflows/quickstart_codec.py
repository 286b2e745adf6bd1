"""The first half of `mmdcodec quickstart`: trains a codec on music.

    WORKDIR/music/{train,valid,test}   audio files, by their use
    WORKDIR/data/{train,valid}         data sets of records
    WORKDIR/run                        training: checkpoints, metrics
    WORKDIR/preview                    the first reconstruction
    WORKDIR/bundle                     the trained codec
    WORKDIR/evaluation                 measures and audio

Each stage is a function that takes the job and describes its result.
"""

import functools
import itertools
import os
import shutil
from typing import Any

import jax

import mmdcodec
from mmdcodec import bundle, formatting, packaged, progress
from mmdcodec.audio import song_files
from mmdcodec.data import audio_folder, captions, records, report
from mmdcodec.evaluate import clips as clips_lib
from mmdcodec.store import jobs
from mmdcodec.tokenizers.loaded_codec import LoadedCodec
from mmdcodec.train import loop
from mmdcodec.train.task import make_task
from mmdcodec.workflows import quickstart_preview
from mmdcodec.workflows.quickstart_job import SPLITS, Job

# Calls after which the running statistics of latents, with a decay of 0.95, are
# those of the batch.
SETTLE = 120


def music_settings(job: Job) -> dict[str, Any]:
  """Returns what the music depends on, such as the files of a folder."""
  if job.audio is None:
    return {
      "songs": job.songs,
      "seconds": job.song_seconds,
      "rate": job.rate,
    }
  paths = audio_folder.find(job.audio, job.workdir)
  known = audio_folder.fingerprint(paths, job.audio)
  return {"folder": str(job.audio), "files": known}


def make_music(job: Job) -> str:
  """Fills WORKDIR/music/{train,valid,test}."""
  if job.audio is not None:
    return link_music(job)

  for index, split in enumerate(SPLITS):
    folder = job.workdir / "music" / split
    folder.mkdir(parents=True, exist_ok=True)
    song_files.write_songs(
      folder,
      songs=job.songs[index],
      seconds=job.song_seconds,
      rate=job.rate,
      seed=index,
      # Starting processes takes longer than rendering a few songs.
      workers=None if job.songs[index] > 8 else 1,
      progress=progress.counter(f"songs ({split})"),
    )
  total = formatting.duration(sum(job.songs) * job.song_seconds)
  train, valid, test = job.songs
  return (
    f"rendered {sum(job.songs)} songs, {total}: {train} to train on, {valid}"
    f" to watch the training, {test} held out"
  )


def link_music(job: Job) -> str:
  """Links the files of the user's folder and the captions next to them."""
  assert job.audio is not None
  found, broken = audio_folder.readable_files(
    audio_folder.find(job.audio, job.workdir)
  )
  split = audio_folder.split_files(found, job.audio)
  for name, paths in split.items():
    for path in paths:
      beside = [each for each in captions.sidecars(path) if each.is_file()]
      for source in (path, *beside):
        relative = os.path.relpath(source, job.audio)
        target = job.workdir / "music" / name / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
          target.symlink_to(source.resolve())
        except OSError:
          # Windows and some file systems have no links.
          shutil.copy(source, target)
  counts = {name: len(paths) for name, paths in split.items()}
  return (
    f"{sum(counts.values())} files of {job.audio}: {counts['train']} to train"
    f" on, {counts['valid']} to watch the training, {counts['test']} held out"
    + (f"; {broken} unreadable, left out" if broken else "")
  )


def prepare(job: Job) -> str:
  """Cuts the training and validation music into records."""
  found = {}
  for split in ("train", "valid"):
    found[split] = records.prepare(
      job.workdir / "music" / split,
      job.workdir / "data" / split,
      rate=job.rate,
      channels=job.channels,
      # Built-in music only takes a second.
      progress=job.audio is not None,
      force=True,
    )
  for line in report.note_lines(found.values()):
    jobs.note(line)
  skipped = sum(len(each.skipped) for each in found.values())
  duration = formatting.duration(found["train"].seconds)
  line = f"{found['train'].records} records, {duration}, to train on"
  return line + (f"; {skipped} files skipped" if skipped else "")


def train(job: Job) -> str:
  """Trains the codec, resuming an interrupted run."""
  (job.workdir / quickstart_preview.FOLDER).mkdir(exist_ok=True)
  loop.train(
    with_data(job),
    job.workdir / "run",
    log=jobs.note,
    on_evaluation=functools.partial(quickstart_preview.write, job),
  )
  return f"{job.config['steps']} steps"


def export(job: Job) -> str:
  """Exports the best checkpoint as a bundle."""
  folder = job.workdir / "bundle"
  step = bundle.export(job.workdir / "run", folder, force=True)
  return f"step {step}, in {folder}"


def evaluate(job: Job) -> str:
  """Measures the trained and the untrained codec on held-out music.

  Also that which the training began from, if any.
  """
  trained = mmdcodec.load(job.workdir / "bundle")
  clips = quickstart_preview.test_clips(
    job, log=functools.partial(print, flush=True)
  )
  folder = job.workdir / "evaluation"
  found = {}
  codecs = {"trained": trained, "untrained": untrained(job)}
  if start := with_data(job)["init_from"]:
    codecs["before"] = bundle.load_codec(start)
  for name, codec in codecs.items():
    about = {
      "model": str(job.workdir / "bundle") if name == "trained" else name,
      "audio": str(job.workdir / "music" / "test"),
      "seconds": job.clip_seconds,
      "clips": job.clips,
    }
    found[name] = clips_lib.reconstruct(codec, clips, about=about)
    clips_lib.save(found[name], folder / name)
  mel = {
    name: f"{x.summary['mel_distance'][0]:.1f} dB" for name, x in found.items()
  }
  others = ", ".join(f"{name}: {text}" for name, text in [*mel.items()][1:])
  return (
    f"mel distance {mel['trained']} on {len(clips)} held-out clips ({others})"
  )


def untrained(job: Job) -> LoadedCodec:
  """Makes the codec at step 0: random weights, codebooks fitted by k-means.

  With codebooks fitted to the random encoder's latents, it is the strongest
  codec that needs no training. The statistics of a spectral codec are those of
  the music too.
  """
  task: Any = make_task(with_data(job))
  key = jax.random.key(job.config["seed"])
  variables = task.whole(jax.jit(task.init)(key))
  batches = task.batches(seed=job.config["seed"])
  try:
    first = next(batches)
    if task.measures_data:
      params = variables.pop("params")
      music = itertools.chain([first], batches)
      variables = task.measure_data(variables, music, lambda line: None)
      variables["params"] = params
  finally:
    batches.close()

  def settle(variables: Any, x: Any, lengths: Any) -> Any:
    """Returns the codebooks with statistics of the encoder's latents."""

    def again(_: Any, codebook: Any) -> Any:
      return task.codec.apply(
        {**variables, "codebook": codebook},
        x,
        lengths,
        method="analyse",
        mutable=["codebook"],
      )[1]["codebook"]

    return jax.lax.fori_loop(0, SETTLE, again, variables["codebook"])

  def start(variables: Any, x: Any, lengths: Any, key: jax.Array) -> Any:
    """Returns the codebooks after the first training call, which fits them."""
    if task.measures_data:
      variables = {**variables, "codebook": settle(variables, x, lengths)}
    return task.codec.apply(
      variables,
      x,
      lengths,
      train=True,
      rngs={"quantize": key},
      mutable=["codebook"],
    )[1]

  started = jax.jit(start)(variables, first["audio"], first["lengths"], key)
  config = {"kind": job.config["task"], "model": job.config["model"]}
  return LoadedCodec(config, {**variables, **started})


def with_data(job: Job) -> dict[str, Any]:
  """Adds the data sets to the config of the run."""
  config = packaged.resolve_start(job.config)
  for split in ("train", "valid"):
    # A mapping, because paths in text must not contain `,` and `=`.
    config["data"][split] = {str(job.workdir / "data" / split): 1.0}
  return config
