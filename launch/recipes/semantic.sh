#!/usr/bin/env bash
# MusicLM's semantic tokenizer, w2v-BERT with 588 M parameters; then
# `mmdcodec cluster`.
#
#   DATA=DATASET WORKDIR=FOLDER launch/recipes/semantic.sh [LAUNCHER ...]
#   COMPILE=1 launch/recipes/semantic.sh
#
# SLICE is v5e:16x16, 2xv5e:16x16 or v5p:4x4x4 with the published batch of 2048,
# or v5e:4x4 with 128.

source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
case ${SLICE:=v5e:16x16} in
  v5e:16x16) sized=(--config.mesh.data=16 --config.mesh.fsdp=16) ;;
  2xv5e:16x16) sized=(--config.mesh.data=32 --config.mesh.fsdp=16) ;;
  v5p:4x4x4) sized=() ;;
  v5e:4x4) sized=(--config.batch=128) ;;
  *) other_slice v5e:16x16, 2xv5e:16x16, v5p:4x4x4 or v5e:4x4 ;;
esac
needs DATA WORKDIR

recipe semantic "${sized[@]}" --
