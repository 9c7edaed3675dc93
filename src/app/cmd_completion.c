/* dikast completion: scripts for shells, and what they ask. */
#include <stdio.h>
#include <string.h>

#include "app/command.h"
#include "app/complete.h"
#include "base/guess.h"

/* Where '=' and ':' break words, bash takes a word apart and wants only the last piece completed. */
static const char bash[] =
    "# bash completion for dikast, as 'dikast completion bash' prints it\n"
    "_dikast() {\n"
    "    local rest=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]/} words=() i blank cur part head= word "
    "files=\n"
    "    for ((i = 0; i <= COMP_CWORD; i++)); do\n"
    "        blank=${rest%%[![:blank:]]*}\n"
    "        rest=${rest#\"$blank\"}\n"
    "        word=${COMP_WORDS[i]}\n"
    "        ((i < COMP_CWORD)) || word=$rest\n"
    "        if ((i == 0)) || [[ $blank ]]; then words+=(\"$word\"); else words[${#words[@]}-1]+=$word; fi\n"
    "        rest=${rest#\"$word\"}\n"
    "    done\n"
    "    cur=${words[${#words[@]}-1]}\n"
    "    part=${cur##*=}\n"
    "    [[ $breaks && $cur == *[\"$breaks\"]* ]] && head=${cur%\"${cur##*[\"$breaks\"]}\"}\n"
    "    COMPREPLY=()\n"
    "    while IFS=$'\\t' read -r word _; do\n"
    "        if [[ $word == :files ]]; then files=1; else COMPREPLY+=(\"${word#\"$head\"}\"); fi\n"
    "    done < <(\"${1/#\\~/$HOME}\" completion words -- \"${words[@]:1}\" 2>/dev/null)\n"
    "    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace 2>/dev/null\n"
    "    [[ $files ]] || return 0\n"
    "    while IFS= read -r word; do\n"
    "        compopt -o filenames 2>/dev/null\n"
    "        word=${cur%\"$part\"}$word\n"
    "        COMPREPLY+=(\"${word#\"$head\"}\")\n"
    "    done < <(compgen -f -- \"$part\")\n"
    "}\n"
    "complete -F _dikast dikast\n";

static const char zsh[] = "#compdef dikast\n"
                          "# zsh completion for dikast, as 'dikast completion zsh' prints it\n"
                          "_dikast() {\n"
                          "    local -a plain open\n"
                          "    local word help files=\n"
                          "    while IFS=$'\\t' read -r word help; do\n"
                          "        case $word in\n"
                          "        :files) files=1 ;;\n"
                          "        *[=.]) open+=(\"$word\") ;;\n"
                          "        *) plain+=(\"${word//:/\\\\:}:$help\") ;;\n"
                          "        esac\n"
                          "    done < <(\"${words[1]/#\\~/$HOME}\" completion words -- \"${(@)words[2,CURRENT-1]}\" "
                          "\"$PREFIX\" 2>/dev/null)\n"
                          "    (( $#plain )) && _describe -V dikast plain\n"
                          "    (( $#open )) && compadd -S '' -- \"${open[@]}\"\n"
                          "    if [[ -n $files ]]; then\n"
                          "        [[ $PREFIX == *=* ]] && compset -P '*='\n"
                          "        _files\n"
                          "    fi\n"
                          "}\n"
                          "if [[ ${funcstack[1]} == _dikast ]]; then _dikast \"$@\"; else compdef _dikast dikast; fi\n";

static const char fish[] = "# fish completion for dikast, as 'dikast completion fish' prints it\n"
                           "function __dikast_complete\n"
                           "    set -l words (commandline -opc)\n"
                           "    set -l cur (commandline -ct)\n"
                           "    set -l program $words[1]\n"
                           "    set -e words[1]\n"
                           "    for line in ($program completion words -- $words \"$cur\" 2>/dev/null)\n"
                           "        if test \"$line\" = :files\n"
                           "            set -l part (string replace -r '^.*=' '' -- \"$cur\")\n"
                           "            set -l head (string replace -r '[^=]*$' '' -- \"$cur\")\n"
                           "            for file in (__fish_complete_path \"$part\")\n"
                           "                echo \"$head$file\"\n"
                           "            end\n"
                           "        else\n"
                           "            echo \"$line\"\n"
                           "        end\n"
                           "    end\n"
                           "end\n"
                           "complete -c dikast -f -a '(__dikast_complete)'\n";

static const struct { const char *name, *script; } shell[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};

static void print_json(const char *member, const char *text) {
    Str out = {0};
    JsonOut j;
    json_out_init(&j, &out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-completion/1");
    json_out_str(&j, member, text);
    json_out_obj_end(&j);
    print_text(&out);
}

static bool run(const Args *a, Error *err) {
    Guess near = {.typed = a->arg[0]};
    Str text = {0};
    if (!strcmp(a->arg[0], "words")) {
        complete(&text, a->arg + 1, a->n_arg - 1);
        if (a->json)
            print_json("words", str_get(&text));
        else
            fputs(str_get(&text), stdout);
        str_release(&text);
        return true;
    }
    if (a->n_arg > 1)
        return error_set(err, ERR_CONFIG, "unexpected argument '%s'; usage: dikast %s", a->arg[1],
                         command_completion.usage);
    for (int i = 0; i < COUNT_OF(shell); i++) {
        guess_offer(&near, shell[i].name);
        if (strcmp(shell[i].name, a->arg[0]) != 0) continue;
        if (a->json)
            print_json("script", shell[i].script);
        else
            fputs(shell[i].script, stdout);
        return true;
    }
    return error_set(err, ERR_CONFIG, "no completion for '%s'%s: expected bash, zsh or fish", a->arg[0],
                     guess_hint(&near));
}

const Command command_completion = {
    .name = "completion",
    .usage = "completion bash|zsh|fish",
    .help = "a script that lets a shell complete commands, flags, keys, values and file names\n\n"
            "bash: eval \"$(dikast completion bash)\"             in ~/.bashrc\n"
            "zsh:  dikast completion zsh > DIR/_dikast           DIR: a folder of $fpath\n"
            "fish: dikast completion fish > ~/.config/fish/completions/dikast.fish\n"
            "The scripts ask the program itself, by 'dikast completion words -- WORDS', so they never grow old.",
    .min_arg = 1,
    .max_arg = MAX_ARGS,
    .run = run};
