#!/usr/bin/env bash
# MusicGen medium, 1.5 B parameters, over the codes of a codec at 50 Hz.
#
#   DATA=TOKENS CODEC=BUNDLE WORKDIR=FOLDER launch/recipes/musicgen_medium.sh \
#       [LAUNCHER ...]
#   COMPILE=1 launch/recipes/musicgen_medium.sh
#
# SLICE is v5e:4x4. T5=google-t5/t5-base is the model that reads the prompts,
# or a MusicGen to train further; both need mmdcodec's extra `hub`.

source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
case ${SLICE:=v5e:4x4} in
  v5e:4x4) sized=(--config.accumulate=4) ;;
  *) other_slice v5e:4x4 ;;
esac
needs DATA CODEC WORKDIR

recipe musicgen:medium "${sized[@]}" -- --config.codec="$CODEC" \
  --config.init_from="${T5:-google-t5/t5-base}"
