#!/usr/bin/env bash
# A neural codec: EnCodec at 32 kHz with the independence loss, or another one.
#
#   DATA=DATASET WORKDIR=FOLDER launch/recipes/codec.sh [LAUNCHER ...]
#   COMPILE=1 launch/recipes/codec.sh
#
# CONFIG=encodec_32khz, soundstream_24khz, soundstream_musiclm, ...; SLICE is
# v5e:2x2, or any other whose number of chips divides BATCH (32). Compiling
# takes a quarter of an hour or more.

source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
: "${SLICE:=v5e:2x2}"
needs DATA WORKDIR

recipe "${CONFIG:-encodec_32khz}" --config.batch="${BATCH:-32}" --
