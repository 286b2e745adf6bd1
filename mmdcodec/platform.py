"""For which kind of device a program is traced."""

import jax


def for_tpu() -> bool:
  """Whether what is traced now will run on TPUs.

  The platform is that of the mesh in use (a mesh of described TPUs too, for
  which a CPU compiles), else JAX's default one. What is lowered for another
  platform without a mesh is not told apart.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  platform = jax.default_backend() if device is None else device.platform
  return platform == "tpu"
