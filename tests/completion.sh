#!/bin/sh
# The scripts of 'dikast completion' in the shells themselves; those that are not installed are named.
# Usage: completion.sh DIKAST DIR
dikast=$1 dir=$2
rm -rf "$dir"
mkdir -p "$dir/some folder" || exit 1
cd "$dir" || exit 1
: >conf.yaml
cat >cases.bash <<'END'
# ask WANT WORD...: the words as readline takes the line apart, at blanks, '=' and ':'; the cursor stands behind the last one.
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
bad=0
ask() {
    local want=$1
    shift
    COMP_LINE=$1 COMP_WORDS=("$1") COMP_CWORD=0
    local word piece
    for word in "${@:2}"; do
        COMP_LINE+=" $word"
        while [[ $word == *[=:]* ]]; do
            piece=${word%%[=:]*}
            [[ $piece ]] && COMP_WORDS+=("$piece")
            COMP_WORDS+=("${word:${#piece}:1}")
            word=${word:${#piece}+1}
        done
        [[ $word || ${COMP_WORDS[${#COMP_WORDS[@]}-1]} != [=:] ]] && COMP_WORDS+=("$word")
    done
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_POINT=${#COMP_LINE}
    _dikast "$1" "${COMP_WORDS[COMP_CWORD]}"
    local got=" ${COMPREPLY[*]} "
    [[ $got == *" $want "* ]] || { echo "completion: bash: ${*@Q}: expected '$want', got '${COMPREPLY[*]}'"; bad=1; }
}
source <("$dikast" completion bash)
complete -p dikast >/dev/null || bad=1
ask run "$dikast" ru
ask conf.yaml "$dikast" run co
ask "some folder" "$dikast" run some
ask rl. "$dikast" run conf.yaml r
ask rl.beta= "$dikast" run conf.yaml rl.be
ask dpo "$dikast" run conf.yaml rl.method=d
ask ppo "$dikast" run conf.yaml rl.method=
ask conf.yaml "$dikast" run conf.yaml data.dir=co
ask --name "$dikast" run conf.yaml run.threads=1 --n
ask prompts "$dikast" run conf.yaml --only prom
ask prompts "$dikast" run conf.yaml --only=prom
ask gguf "$dikast" export a b --to g
ask run.seed= "$dikast" launch -n 2 -- run conf.yaml run.s
COMP_WORDBREAKS=$' \t\n'
_one() { # '=' breaks no word: the whole of it is wanted
    COMP_LINE="$dikast run conf.yaml rl.method=d" COMP_WORDS=("$dikast" run conf.yaml rl.method=d) COMP_CWORD=3
    COMP_POINT=${#COMP_LINE}
    _dikast "$dikast" rl.method=d
    [[ ${COMPREPLY[*]} == rl.method=dpo ]] || { echo "completion: bash: '=' in words: '${COMPREPLY[*]}'"; bad=1; }
}
_one
exit $bad
END
dikast=$dikast bash --norc cases.bash || exit 1
echo "completion: bash: as expected"

if command -v zsh >/dev/null 2>&1; then
    cat >cases.zsh <<'END'
# compadd and its like stand only inside the line editor: what they would be given is looked at.
bad=0
compdef() { :; }
compadd() { while [[ $1 != -- ]]; do shift; done; shift; got+=("$@"); }
_describe() { got+=("${(@)${(@P)@[-1]}%%:*}"); }
_files() { got+=(files); }
compset() { :; }
eval "$($dikast completion zsh)"
ask() {
    local want=$1
    shift
    got=() words=("$@") CURRENT=$# PREFIX=${@[-1]}
    _dikast
    (( ${got[(I)$want]} )) || { print -r "completion: zsh: $*: expected '$want', got '$got'"; bad=1 }
}
ask run $dikast ru
ask files $dikast run co
ask rl. $dikast run conf.yaml r
ask rl.beta= $dikast run conf.yaml rl.be
ask rl.method=dpo $dikast run conf.yaml rl.method=d
ask files $dikast run conf.yaml data.dir=co
ask prompts $dikast run conf.yaml --only prom
exit $bad
END
    dikast=$dikast zsh -f cases.zsh || exit 1
    echo "completion: zsh: as expected"
else
    echo "completion: zsh: skipped: not installed (sh tools/setup.sh --shells)"
fi

if command -v fish >/dev/null 2>&1; then
    bad=0
    ask() {
        got=$(HOME=$dir XDG_CONFIG_HOME=$dir PATH=$(dirname "$dikast"):$PATH fish --no-config -c \
            "dikast completion fish | source; complete -C'$2'" | cut -f 1)
        echo "$got" | grep -qxF -- "$1" || { echo "completion: fish: $2: expected '$1', got '$got'"; bad=1; }
    }
    ask run 'dikast ru'
    ask conf.yaml 'dikast run co'
    ask rl.beta= 'dikast run conf.yaml rl.be'
    ask rl.method=dpo 'dikast run conf.yaml rl.method=d'
    ask data.dir=conf.yaml 'dikast run conf.yaml data.dir=co'
    ask prompts 'dikast run conf.yaml --only prom'
    [ $bad -eq 0 ] || exit 1
    echo "completion: fish: as expected"
else
    echo "completion: fish: skipped: not installed (sh tools/setup.sh --shells)"
fi
rm -rf "$dir"
