"""The networks that a semantic tokenizer can have, our own and public ones.

The field "network" of a bundle's model names one; bundles without it have our
own. A network is a Linen module with

  rate, stride        Hz, and samples from a frame to the next
  shortest            samples of the shortest clip that has a frame
  frames_of(samples)  frames of a clip that is not shorter
  features(x, lengths)  vectors [batch, samples / stride, width] of each frame
                      for audio [batch, samples, 1] of whole strides, 0 after
                      the frames of an item
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmdcodec import bounds
from mmdcodec.bounds import mapping, one_of
from mmdcodec.models import hubert, musicfm, semantic, w2v_bert

# Name -> the module with its `from_config`.
NETWORKS = {
  "conformer": semantic,
  "w2v_bert": w2v_bert,
  "hubert": hubert,
  "musicfm": musicfm,
}


def from_config(config: Mapping[str, Any]) -> Any:
  """Builds the network from a mapping of its fields and its name.

  Raises:
    UserError: an unknown key, or an invalid value.
  """
  bounds.check("the config of the network", config, mapping())
  found = dict(config)
  name = found.pop("network", "conformer")
  bounds.check("network", name, one_of(tuple(NETWORKS)))
  return NETWORKS[name].from_config(found)


def bundle_shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of the variables of a bundle of kind "semantic".

  Args:
    config: config of the bundle.

  Raises:
    UserError: as in `from_config`.
  """
  model = from_config(config["model"])
  if isinstance(model, semantic.SemanticModel):
    # It has more variables than its features need.
    own = {k: v for k, v in config["model"].items() if k != "network"}
    return semantic.bundle_shapes({"model": own})
  samples = model.stride * -(-model.shortest // model.stride)
  x = jax.ShapeDtypeStruct((1, samples, 1), jnp.float32)
  lengths = jax.ShapeDtypeStruct((1,), jnp.int32)

  def init(key: jax.Array, x: jax.Array, lengths: jax.Array) -> Any:
    return model.init(key, x, lengths, method="features")

  return dict(jax.eval_shape(init, jax.random.key(0), x, lengths))
