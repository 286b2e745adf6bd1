#!/usr/bin/env bash
# MusicLM's joint embedding of music and text, 173 M parameters, from a data set
# with captions; then `mmdcodec cluster`.
#
#   DATA=DATASET WORKDIR=FOLDER launch/recipes/mulan.sh [LAUNCHER ...]
#   COMPILE=1 launch/recipes/mulan.sh
#
# SLICE is v5e:8x8, v5e:16x16, 2xv5e:16x16 or v5p:4x4x4 for the batch of 4096, or
# v5e:4x4 for 1024.

source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
case ${SLICE:=v5e:8x8} in
  v5e:8x8 | v5e:16x16 | 2xv5e:16x16 | v5p:4x4x4) sized=() ;;
  v5e:4x4) sized=(--config.batch=1024) ;;
  *) other_slice v5e:8x8, v5e:16x16, 2xv5e:16x16, v5p:4x4x4 or v5e:4x4 ;;
esac
needs DATA WORKDIR

recipe mulan "${sized[@]}" --
