#!/usr/bin/env bash
# MusicLM's fine stage, 430 M parameters, over tokens made with
# `mmdcodec tokenize`.
#
#   DATA=TOKENS/codec JOINT=TOKENS/mulan \
#       WORKDIR=FOLDER launch/recipes/musiclm_fine.sh [LAUNCHER ...]
#   COMPILE=1 launch/recipes/musiclm_fine.sh
#
# SLICE is v5e:4x4, or v5e:16x16 with four times the batch.

source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
case ${SLICE:=v5e:4x4} in
  v5e:4x4) sized=(--config.accumulate=2) ;;
  v5e:16x16)
    sized=(--config.batch=1024 --config.mesh.data=16 --config.mesh.fsdp=16)
    ;;
  *) other_slice v5e:4x4 or v5e:16x16 ;;
esac
needs DATA JOINT WORKDIR

recipe musiclm_fine "${sized[@]}" -- \
  --config.data.streams="joint=$JOINT,coarse=$DATA"
