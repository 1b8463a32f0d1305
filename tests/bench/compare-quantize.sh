#!/usr/bin/env bash
# Times regguf quantize against a llama-quantize of yours, in pairs on the same file, and compares
# the tensors that both wrote.
#
#   tests/bench/compare-quantize.sh LLAMA_QUANTIZE MODEL [THREADS [TYPE…]]
#
# MODEL is an F32, F16 or BF16 GGUF file, best of a gigabyte or more. Both write beside each other in
# a temporary folder ($TMPDIR); --pure makes the types alike. IMATRIX=FILE adds --imatrix FILE. Each
# pair is run ROUNDS times (3), the better time of each counts. REGGUF names the regguf to run.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
theirs=$1 model=$2 threads=${3:-2}
shift $(($# < 3 ? $# : 3))
types=("$@")
[ ${#types[@]} -gt 0 ] || types=(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_S Q4_K_S Q5_K_S Q6_K IQ4_NL IQ4_XS)
ours=${REGGUF:-regguf}
rounds=${ROUNDS:-3}
extra=()
[ -z "${IMATRIX:-}" ] || extra=(--imatrix "$IMATRIX")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Seconds that a command takes; its output is kept for the case that it fails.
seconds() {
    local begin end
    begin=$(date +%s.%N)
    "$@" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; return 1; }
    end=$(date +%s.%N)
    awk "BEGIN { print $end - $begin }"
}

least() { printf '%s\n' "$@" | sort -g | head -n 1; }

# Reading the input and writing as much as the output, with the system's own means.
floor() {
    seconds sh -c 'cat "$1" >/dev/null; head -c "$(wc -c <"$2")" "$1" >"$3"' - "$model" "$1" "$folder/floor"
}

printf '%-10s %10s %10s %8s %10s %6s  %s\n' type theirs/s ours/s ratio cat/s to-cat tensors
for type in "${types[@]}"; do
    t=() o=() f=()
    for ((i = 0; i < rounds; i++)); do
        rm -f "$folder"/*.gguf
        t+=("$(seconds "$theirs" --pure "${extra[@]}" "$model" "$folder/theirs.gguf" "$type" "$threads")")
        o+=("$(seconds "$ours" quantize --pure "${extra[@]}" "$model" "$folder/ours.gguf" "$type" "$threads")")
        f+=("$(floor "$folder/ours.gguf")")
    done
    same=same
    "$ours" compare "$folder/theirs.gguf" "$folder/ours.gguf" >"$folder/log" 2>&1 || same=differ
    awk -v type="$type" -v t="$(least "${t[@]}")" -v o="$(least "${o[@]}")" -v f="$(least "${f[@]}")" \
        -v same="$same" 'BEGIN {
            printf "%-10s %10.2f %10.2f %7.2fx %10.2f %5.2fx  %s\n", type, t, o, t / o, f, o / f, same }'
done
