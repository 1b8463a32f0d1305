#!/usr/bin/env bash
# Times regguf's runner against llama.cpp's programs of yours, in pairs on the same file.
#
#   tests/bench/compare-run.sh FOLDER MODEL TEXT [THREADS]
#
# FOLDER holds llama-bench, llama-perplexity and llama-imatrix; what is missing is left out. TEXT has a few
# thousand words. A prompt of PROMPT bytes (2048) and GEN tokens (64) are timed in tokens a second, CHUNKS windows
# (4) of 512 tokens in seconds. Each pair is run ROUNDS times (3), the better of each counts; the ratio is theirs /
# ours of times, ours / theirs of speeds: above 1 regguf is faster. REGGUF names the regguf to run. Theirs quantizes
# activations to 8 bits, ours computes in float32: the arithmetics differ.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
theirs=$1 model=$2 text=$3 threads=${4:-2}
ours=${REGGUF:-regguf} rounds=${ROUNDS:-3} chunks=${CHUNKS:-4} gen=${GEN:-64}
arithmetic=(--activations "${ACTIVATIONS:-exact}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
head -c "${PROMPT:-2048}" "$text" >"$folder/prompt"

# Runs a command with its output in a log, which is shown if it fails.
quietly() { "$@" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; return 1; }; }

seconds() {
    local begin end
    begin=$(date +%s.%N)
    quietly "$@" || return 1
    end=$(date +%s.%N)
    awk "BEGIN { print $end - $begin }"
}

# Tokens a second that regguf says of "prompt eval" or "eval".
our_speed() {
    local what=$1
    shift
    quietly "$ours" run -v -m "$model" --threads "$threads" --temp 0 "${arithmetic[@]}" "$@"
    awk -v what="$what time" 'index($0, what) && (what ~ /^prompt/ || !/prompt/) {
        for (i = 2; i <= NF; i++) if ($i == "tokens" && $(i + 2) ~ /^second/) print $(i - 1) }' "$folder/log"
}

# Tokens a second that llama-bench says of "$@".
their_speed() {
    quietly "$theirs/llama-bench" -m "$model" -t "$threads" -r 1 -o csv "$@"
    awk -F'","' '/avg_ts/ && !at { gsub(/"/, ""); n = split($0, names, ",")
                                   for (i = 1; i <= n; i++) if (names[i] == "avg_ts") at = i; next }
                 at && NF >= at { gsub(/"/, "", $at); print $at }' "$folder/log" | tail -n 1
}

# A line of the table: more is better of speeds, less of times.
line() {
    awk -v what="$1" -v unit="$2" -v t="$3" -v o="$4" -v speed="$5" 'BEGIN {
        if (t == "" || o == "") printf "%-11s %10s %10s %9s  %s\n", what, t "-", o "-", "failed", unit
        else printf "%-11s %10.2f %10.2f %8.2fx  %s\n", what, t, o, speed ? o / t : t / o, unit }'
}

least() { printf '%s\n' "$@" | sort -g | head -n 1; }
most() { printf '%s\n' "$@" | sort -g | tail -n 1; }

printf '%-11s %10s %10s %9s\n' "" theirs ours ratio
if [ -x "$theirs/llama-bench" ]; then
    pt=() po=() gt=() go=()
    for ((i = 0; i < rounds; i++)); do
        pt+=("$(their_speed -p 512 -n 0)")
        po+=("$(our_speed 'prompt eval' -f "$folder/prompt" -n 1)")
        gt+=("$(their_speed -p 0 -n "$gen")")
        go+=("$(our_speed eval -p a -n "$gen")")
    done
    line prompt tokens/s "$(most "${pt[@]}")" "$(most "${po[@]}")" 1
    line generation tokens/s "$(most "${gt[@]}")" "$(most "${go[@]}")" 1
fi
for work in perplexity imatrix; do
    [ -x "$theirs/llama-$work" ] || continue
    t=() o=()
    for ((i = 0; i < rounds; i++)); do
        rm -f "$folder"/*.gguf
        same=("-m" "$model" -f "$text" -c 512 --chunks "$chunks" -t "$threads")
        [ $work = perplexity ] || same+=(-o "$folder/$i.gguf")
        t+=("$(seconds "$theirs/llama-$work" "${same[@]}")")
        rm -f "$folder"/*.gguf
        o+=("$(seconds "$ours" "$work" "${arithmetic[@]}" "${same[@]}")")
    done
    line "$work" seconds "$(least "${t[@]}")" "$(least "${o[@]}")" 0
done
