#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'HELP'
Usage: ./run_local.sh [--products N] [--seed S] [--setup-only]

Makes .venv from requirements.lock, draws a sample catalogue, brings it into an index, and searches it by an
English text, a Chinese text, a picture, and text with picture. What is there already is not made again.

  --products N   products of the sample (default: what `catalogue-index sample` draws)
  --seed S       seed of the sample (default: 0)
  --setup-only   stop once .venv is ready
  -h, --help     show this

Needs Python 3.11, 3.12 or 3.13 with its headers, and a C++ compiler, because Annoy comes as source only. The tests
run on Python 3.11 and Linux x86-64; for 3.12 and 3.13 the pinned packages resolve, but nothing has been tested.
Writes .venv/ and local/ and nothing else, but for pip's cache and the record of verified files in ~/.cache.
HELP
}

fail() {
    printf 'run_local.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

say() {
    if [[ -t 1 ]]; then printf '\n\033[1m%s\033[0m\n' "$1"; else printf '\n%s\n' "$1"; fi
}

products=()
seed=0
setup_only=false
while (($#)); do
    case "$1" in
        --products | --seed)
            [[ "${2:-}" =~ ^[0-9]+$ ]] || fail "$1 needs a whole number, not '${2:-}'" 2
            if [[ "$1" == --products ]]; then products=(--products "$2"); else seed="$2"; fi
            shift 2
            ;;
        --setup-only)
            setup_only=true
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown argument '$1': see ./run_local.sh --help" 2 ;;
    esac
done

# --- .venv -----------------------------------------------------------------------------------------------------

# Runs a Python rather than trusting its name: a version manager's shim may have nothing behind it.
is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if is_supported "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found: install one \
(Debian, Ubuntu: apt install python3.11 python3.11-venv python3.11-dev)"
}

find_compiler() {
    local name
    for name in "${CXX:-}" g++ c++ clang++; do
        if [[ -n "$name" ]] && printf 'int main() {}' | "$name" -x c++ -fsyntax-only - >/dev/null 2>&1; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "no C++ compiler found, and Annoy has to be compiled: install g++ (Debian, Ubuntu: apt install g++)"
}

# Changes with whatever decides what is installed.
fingerprint() {
    "$1" - <<'PYTHON'
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.version.encode())
for name in ("requirements.lock", "pyproject.toml"):
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
}

# Shows the hundreds of lines that pip prints as a few.
show_progress() {
    local line count=0
    while IFS= read -r line; do
        case "$line" in
            Collecting\ * | Requirement\ already\ satisfied*)
                count=$((count + 1))
                if ((count % 20 == 0)); then printf '  %d packages\n' "$count"; fi
                ;;
            Installing\ collected*) printf '  %d packages; installing them\n' "$count" ;;
            *) ;;
        esac
    done
}

set_up() {
    local stamp=.venv/set-up.sha256 python compiler headers built_with
    if is_supported .venv/bin/python; then
        if [[ -f "$stamp" && "$(<"$stamp")" == "$(fingerprint .venv/bin/python)" ]]; then
            return
        fi
        python=.venv/bin/python
    else
        python="$(find_python)"
    fi
    compiler="$(find_compiler)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: install its venv package \
(Debian, Ubuntu: apt install python3-venv)"
    headers="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
    [[ -f "$headers/Python.h" ]] ||
        fail "$python has no C headers, and Annoy has to be compiled: install them \
(Debian, Ubuntu: apt install python3-dev)"
    # The compiler that Python was built with, which pip would call, may not be on this machine.
    built_with="$("$python" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')"
    if ! command -v "$built_with" >/dev/null; then
        export CC="$compiler" CXX="$compiler"
    fi

    say "Installing the pinned packages into .venv (1 GB to download, 4 GB on disk)"
    if [[ "$python" != .venv/bin/python ]]; then
        "$python" -m venv --clear .venv
    elif ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        .venv/bin/python -m ensurepip
    fi
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    .venv/bin/python -m pip install --no-deps --use-pep517 --require-hashes -r requirements.lock | show_progress ||
        fail "pip could not install the pinned packages: its message is above, and the same command goes on from here"
    .venv/bin/python -m pip install --no-deps --no-build-isolation --quiet -e .
    fingerprint .venv/bin/python >"$stamp"
}

set_up
if "$setup_only"; then
    exit 0
fi

# --- sample, index, searches -------------------------------------------------------------------------------------

index=local/index
sample=local/sample
picture=local/query.jpg
command=.venv/bin/catalogue-index

# Says what the sample was drawn from; written last, so half a sample is drawn again.
drawn_from() {
    printf 'seed %s %s\n' "$seed" "${products[*]-}"
    cat pipelines/sample*.py | cksum
}

mkdir -p local
if [[ ! -f local/sample.drawn ]] || ! drawn_from | cmp -s - local/sample.drawn; then
    say "Drawing the sample catalogue"
    rm -rf "$sample" "$picture" local/sample.drawn
    "$command" sample ${products[@]+"${products[@]}"} --seed "$seed" --output "$sample" --query-image "$picture"
    drawn_from >local/sample.drawn
fi

say "Bringing the catalogue into the index"
"$command" run --catalogue "$sample/*.parquet" --index "$index"

say "Searching"
"$command" query --index "$index" -k 5 --text "red sneakers"
printf '\n'
"$command" query --index "$index" -k 5 --text "蓝色连衣裙" # a blue dress
printf '\n'
"$command" query --index "$index" -k 5 --image "$picture"
printf '\n'
"$command" query --index "$index" -k 5 --image "$picture" --text "black"

cat <<END

Sample catalogue:   $sample/
Picture searched:   $picture
Index:              $index/
Bundle, vectors, Annoy files and manifest lie in the index.

Next: $command query --index $index --text "striped shirt" --where "price < 50"
END
