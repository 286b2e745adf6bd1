"""Measures a codec on held-out clips during training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmdcodec.evaluate import codebooks, reconstruction
from mmdcodec.models.codec import Codec
from mmdcodec.parallel import rules
from mmdcodec.train.independence_term import Term


class CodecEvaluation:
  """Measures a codec on held-out clips, with one compiled program for all."""

  def __init__(self, codec: Codec, term: Term | None):
    """Prepares the measures.

    Args:
      codec: the model.
      term: the independence loss, if the run has it.
    """
    self._codec, self._term = codec, term
    self._reconstruct = jax.jit(self._measure_batch)
    self._dependence = jax.jit(self._measure_independence)

  def __call__(
    self, variables: dict[str, Any], batches: list[dict[str, jax.Array]]
  ) -> dict[str, Any]:
    """Measures all clips.

    Args:
      variables: codec variables.
      batches: global batches, placed on the mesh.

    Returns:
      Means of `si_sdr` (dB), `mel_distance` and `stft_distance`; `usage` and
      `perplexity` per codebook, over all clips; and `independence`, the
      unweighted loss over all clips, if the run has it.
    """
    sums, counts, held = [], [], []
    for batch in batches:
      found, rows = self._reconstruct(variables, batch)
      held.append(rows)
      more, count = jax.tree.map(np.float64, jax.device_get(found))
      sums.append(more)
      counts.append(count)
    clips = sum(batch["audio"].shape[0] for batch in batches)
    metrics = {name: sum(s[name] for s in sums) / clips for name in sums[0]}
    if self._term is not None:
      metrics["independence"] = float(self._dependence(held))
    return {**metrics, **codebooks.statistics(np.sum(counts, 0))}

  def _measure_batch(
    self, variables: dict[str, Any], batch: dict[str, jax.Array]
  ) -> tuple[tuple[dict[str, jax.Array], jax.Array], tuple | None]:
    """Sums over a batch, so that results of several batches can be added.

    Returns:
      (sums, code counts), and the input of the independence loss.
    """
    x, lengths = batch["audio"], batch["lengths"]
    out: Any = self._codec.apply(variables, x, lengths)
    rows = reconstruction.compare(x, out.audio, self._codec.rate, lengths)
    used = codebooks.histogram(
      out.codes, self._codec.codebook_size, out.frame_mask
    )
    sums = {name: value.sum() for name, value in rows.items()}
    # Replicated, so that each process can read them.
    found = jax.tree.map(rules.constrain, (sums, used))
    if self._term is None:
      return found, None
    return found, (out.z, out.streams, out.frame_mask)

  def _measure_independence(self, rows: list[tuple]) -> jax.Array:
    """Computes the unweighted loss over the clips of all batches."""
    z, streams, mask = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    assert self._term is not None
    found = self._term.value(z, streams, mask, jax.random.key(0))
    return rules.constrain(found)
