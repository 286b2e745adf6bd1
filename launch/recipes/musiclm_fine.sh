#!/usr/bin/env bash
# MusicLM's fine stage, 430 M parameters, over tokens made with
# `mmdcodec tokenize`.
#
#   DATA=TOKENS/codec JOINT=TOKENS/mulan \
#       WORKDIR=FOLDER launch/recipes/musiclm_fine.sh [LAUNCHER ...]
#   COMPILE=1 launch/recipes/musiclm_fine.sh
#
# SLICE is v5e:4x4 or v5p:4x4x4 with a batch of 256, v5e:16x16 with 1024, or
# 2xv5e:16x16 with 2048.

source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
case ${SLICE:=v5e:4x4} in
  v5e:4x4) sized=(--config.accumulate=2) ;;
  v5p:4x4x4) sized=() ;;
  v5e:16x16)
    sized=(--config.batch=1024 --config.mesh.data=16 --config.mesh.fsdp=16)
    ;;
  2xv5e:16x16)
    sized=(--config.batch=2048 --config.mesh.data=32 --config.mesh.fsdp=16)
    ;;
  *) other_slice v5e:4x4, v5p:4x4x4, v5e:16x16 or 2xv5e:16x16 ;;
esac
needs DATA JOINT WORKDIR

recipe musiclm_fine "${sized[@]}" -- \
  --config.data.streams="joint=$JOINT,coarse=$DATA"
