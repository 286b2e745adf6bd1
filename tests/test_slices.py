"""Meshes of several TPU slices, described and compiled for.

Defects that these tests must catch: parameters that cross between slices, and
slices that are taken for one.
"""

import re

import numpy as np
import pytest

from mmdcodec.errors import UserError
from mmdcodec.parallel import mesh as mesh_lib
from mmdcodec.parallel import topology
from mmdcodec.train import compile as ahead
from mmdcodec.train import config_files

TWO = "2xv5e:2x2"


@pytest.fixture(scope="module")
def devices():
  pytest.importorskip("libtpu")
  return topology.topology_devices(TWO)


@pytest.mark.parametrize(
  "sizes", [{}, dict(fsdp=4, dcn_data=2), dict(data=4, fsdp=2, model=-1)]
)
def test_only_data_crosses(devices, sizes):
  """Catches a mesh whose other axes reach into another slice."""
  mesh = mesh_lib.make_mesh(sizes, devices)
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  first, second = np.split(slices, 2)
  assert set(first.flat) == {0} and set(second.flat) == {1}


@pytest.mark.parametrize(
  ("sizes", "match"),
  [
    (dict(data=1, fsdp=8), "data is 1.*2 slices"),
    (dict(dcn_data=4), "dcn_data is 4.*2 TPU slices"),
    (dict(dcn_data=1), "dcn_data is 1.*2 TPU slices"),
  ],
)
def test_impossible_meshes(devices, sizes, match):
  """Catches slices that are counted wrong, silently."""
  with pytest.raises(UserError, match=match):
    mesh_lib.make_mesh(sizes, devices)


@pytest.mark.usefixtures("all_devices")
def test_no_slices_here():
  """Catches CPUs that are taken for slices, and a wish that is ignored."""
  assert mesh_lib.make_mesh(dict(dcn_data=1)).size == 8
  with pytest.raises(UserError, match="dcn_data is 2.*1 processes"):
    mesh_lib.make_mesh(dict(dcn_data=2))


@pytest.mark.slow
def test_a_step_for_two_slices(devices, optimized):
  """Catches a step that the compiler refuses, or that crosses with weights.

  Weights are gathered among the four chips of a slice.
  """
  config = config_files.parse(
    ["--config=lm_small:tiny", "--config.mesh.fsdp=4", "--config.batch=8"]
  )
  text = ahead.plan(config, TWO).lowered.compile().as_text()
  # One program a slice, which sends to the other one what `data` adds up.
  assert "num_partitions=4" in text and "SliceId" in text
  assert re.search(r" send\(", text) and re.search(r" recv\(", text)
  groups = set(
    re.findall(r" all-gather(?:-start)?\(.*replica_groups=(\S+),", text)
  )
  assert groups == {"{{0,1,2,3}}"}
