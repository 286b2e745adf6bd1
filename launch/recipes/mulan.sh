#!/usr/bin/env bash
# MusicLM's joint embedding of music and text, 173 M parameters, from a data set
# with captions; then `mmdcodec cluster`.
#
#   DATA=DATASET WORKDIR=FOLDER launch/recipes/mulan.sh [LAUNCHER ...]
#   COMPILE=1 launch/recipes/mulan.sh
#
# SLICE is v5e:8x8, for the batch of 4096.

source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
case ${SLICE:=v5e:8x8} in
  v5e:8x8) ;;
  *) other_slice v5e:8x8 ;;
esac
needs DATA WORKDIR

recipe mulan --
