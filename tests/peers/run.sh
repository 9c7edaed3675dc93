#!/bin/sh
# Our program beside the packages its users have, in a virtual environment of its own.
#
#   sh tests/peers/run.sh light|heavy BUILD      light: no PyTorch, part of `make test`; heavy: `make test-peers`
#
# The environment is build/peers/light or heavy, kept between calls. A package or an index that cannot be had skips the checks
# that need it, by name. Exit status 1 when a check fails.
set -u
kind=$1
build=$2
here=$(cd "$(dirname "$0")" && pwd)
env=$here/../../build/peers/$kind
light="tokenizers==0.23.3 tiktoken==0.14.0 transformers==5.23.0 jinja2==3.1.6 pyarrow==26.0.1 safetensors==0.8.0 gguf==0.19.0 xllamacpp==2026.10.11549 scikit-learn==1.9.1 statsmodels==0.15.0 choix==0.4.1"
heavy="$light torch==2.15.0 accelerate==1.15.0 peft==0.21.2 trl==1.16.0 datasets==5.2.0 lm_eval==0.4.13"
[ "$kind" = heavy ] && packages=$heavy || packages=$light

if [ ! -x "$env/bin/python" ] && ! python3 -m venv "$env" > /dev/null 2>&1; then
    echo "peers: skipped: python3 cannot make virtual environments here (Debian: python3-venv)"
    exit 0
fi
for p in $packages; do
    "$env/bin/pip" install -q --disable-pip-version-check "$p" > "$env/pip.log" 2>&1 ||
        echo "peers: cannot install $p: $(tail -1 "$env/pip.log")"
done

failed=0
# name, then the script and its arguments
check() {
    name=$1
    shift
    begun=$(date +%s)
    "$env/bin/python" "$@" > "$env/$name.log" 2>&1
    rc=$?
    case $rc in
    0) word=passed ;;
    77) word="skipped: $(tail -1 "$env/$name.log")" ;;
    *) word=FAILED failed=1 ;;
    esac
    echo "peers: $name: $word ($(($(date +%s) - begun)) s)"
    [ $rc -eq 0 ] || [ $rc -eq 77 ] || tail -20 "$env/$name.log"
}

data=$here/../../../shared/data/quickstart
[ -d "$data" ] && texts="--data $data" || texts=""
check tokenizers "$here/tokenizers_equal.py" "$build/tests/vec_adapter" --mb 2 --random 40 $texts
check jinja_random "$here/jinja_random.py" --seed 1 --count 3000 "$build/tests/vec_adapter"
check jinja_calls "$here/jinja_calls.py" --seed 1 --count 4000 "$build/tests/vec_adapter"
check bytes "$here/bytes_equal.py" "$build/tests/vec_adapter" --count 3000
check native_template "$here/native_template.py" "$here/../golden/text_llama3.json" "$build/tests/vec_adapter"
check sft_rows "$here/sft_rows.py" "$here/../golden/text_llama3.json" "$build/dikast"
check parquet "$here/parquet_equal.py" "$build/dikast" --files 150
check csv "$here/csv_equal.py" "$build/dikast" --files 150
check metrics "$here/metrics_equal.py" "$build/tests/metrics_adapter" --cases 20
# Every family in F32; with all kinds of models and numbers when it is heavy.
[ "$kind" = heavy ] && quick="" ||
    quick="--quick llama qwen2 qwen3 gpt2 llama-init mistral-init qwen2-init qwen3-init gpt2-init gpt2-untied-init"
check llama_cpp "$here/gguf_equal.py" "$build/dikast" $quick
# The same in both: templates of what is a few megabytes, or of half a gigabyte of packages.
[ "$kind" = heavy ] && small="" || small=--small
check chat_templates "$here/chat_templates.py" --packages "$env/archives" --download $small --least 100 "$build/tests/vec_adapter"
if [ "$kind" = heavy ]; then
    check transformers "$here/hf_equal.py" "$build/dikast"
    check peft "$here/peft_equal.py" "$build/dikast" "$here/../../conf/tiny.yaml"
    check trl "$here/trl_equal.py" "$build/tests/train_adapter"
    # The last release with a PPO trainer, in a folder of its own.
    [ -d "$env/trl112" ] || "$env/bin/pip" install -q --disable-pip-version-check --no-deps --target "$env/trl112" trl==1.12.0 \
        > "$env/pip.log" 2>&1 || echo "peers: cannot install trl==1.12.0: $(tail -1 "$env/pip.log")"
    [ -d "$env/trl112" ] && check trl_ppo "$here/trl_equal.py" "$build/tests/train_adapter" --trl112 "$env/trl112"
    check lm_eval "$here/lmeval_items.py" "$build/dikast"
    check score_lm_eval "$here/score_equal.py" "$build/dikast"
    # Three splits; a training takes minutes, and is made again when the program is. Slack: categories of two dozen harmful rows.
    find "$env/classifier" -name classifier.json ! -newer "$build/dikast" -delete 2> /dev/null
    check classifier "$here/classifier_equal.py" "$env/classifier/0" "$env/classifier/1" "$env/classifier/2" \
        --slack 0.03 --train "$build/dikast" "$here/../../../shared/data/dev/harm_qa.jsonl"
    check run_imported "$here/run_imported.py" "$build/dikast" "$here/../../conf/tiny.yaml"
fi
exit $failed
