#!/bin/sh
# What `cmake --install` puts below a prefix works from there, with nothing of the sources beside it: programs, pages, completion, tasks by
# name, the library; it goes again by the list that was left; DESTDIR holds all of a package. And what tools/setup.sh makes of its arguments.
# Usage: install.sh BUILD SOURCES DIR [C_COMPILER]
set -u
build=$1 sources=$2 dir=$3 cc=${4:-}
fail() { echo "install: $*"; exit 1; }
there() { for f; do [ -s "$f" ] || fail "$f is missing or empty"; done; }
rm -rf "$dir"
mkdir -p "$dir/work" "$dir/bin" || exit 1

# -- below a prefix
cmake --install "$build" --prefix "$dir/usr" >"$dir/said" 2>&1 || fail "cmake --install: $(cat "$dir/said")"
cp "$build/install_manifest.txt" "$dir/manifest"
share=$dir/usr/share
cd "$dir/work" || exit 1
PATH=$dir/usr/bin:$PATH
[ "$(command -v dikast)" = "$dir/usr/bin/dikast" ] || fail "another dikast: $(command -v dikast)"
dikast --help | grep -q '^usage: dikast' || fail "--help: $(dikast --help | head -n 3)"
n=0
for command in $(dikast help --commands); do
    there "$share/man/man1/dikast-$command.1"
    n=$((n + 1))
done
[ $n -gt 20 ] || fail "$n commands"
[ "$(find "$share/man/man1" -type f | wc -l)" -eq $((n + 1)) ] || fail "pages of other commands: $(ls "$share/man/man1")"
grep -q '^\.TH ' "$share/man/man1/dikast.1" || fail "dikast.1 is no page"
dikast completion bash | cmp -s - "$share/bash-completion/completions/dikast" || fail "completion of bash"
dikast completion fish | cmp -s - "$share/fish/vendor_completions.d/dikast.fish" || fail "completion of fish"
dikast completion zsh | cmp -s - "$share/zsh/site-functions/_dikast" || fail "completion of zsh"
# A recipe and the constitution are in the program, the gold program is beside it: the plan looks for all that a run needs.
{ dikast init tiny && dikast plan conf/tiny.yaml; } >said 2>&1 || fail "plan: $(cat said)"
{ dikast init real && dikast constitution lint conf/constitution.json; } >said 2>&1 || fail "lint: $(cat said)"
# A task's name: conf/tasks of the working folder is none, so it is the one that was installed.
dikast eval nowhere arc_easy >said 2>&1 && fail "eval without documents"
grep -q "share/dikast/conf/tasks/arc_easy.jsonl: no such file; task 'arc_easy'" said || fail "eval: $(cat said)"
dikast eval nowhere no_such_task >said 2>&1
grep -q "no task 'no_such_task'.*share/dikast/conf/tasks" said || fail "eval: $(cat said)"
there "$share/dikast/conf/hardware.yaml" "$share/dikast/conf/constitution.xml" "$share/doc/dikast/README.md" "$share/doc/dikast/docs/formats.md"
[ ! -e "$build/dikast_mpi.so" ] || there "$dir/usr/lib/dikast/dikast_mpi.so" # src/dist/comm_load.c looks there
if [ -n "$cc" ]; then
    cat >ask.c <<'C'
#include <dikast.h>
#include <stdio.h>
int main(void) { return puts(dikast_version()) < 0; }
C
    "$cc" -I"$dir/usr/include" ask.c -L"$dir/usr/lib" -ldikast -Wl,-rpath,"$dir/usr/lib" -o ask >said 2>&1 || fail "library: $(cat said)"
    dikast --version | grep -qF "$(./ask)" || fail "the library says it is $(./ask)"
fi

# -- and gone again
cmake -DMANIFEST="$dir/manifest" -P "$sources/cmake/uninstall.cmake" >said 2>&1 || fail "uninstall: $(cat said)"
left=$(find "$dir/usr" ! -type d -o -name dikast)
[ -z "$left" ] || fail "uninstall left: $left"

# -- as a package
DESTDIR=$dir/package cmake --install "$build" --prefix /usr >said 2>&1 || fail "DESTDIR: $(cat said)"
package=$dir/package/usr
there "$package/bin/dikast" "$package/share/man/man1/dikast.1" "$package/share/zsh/vendor-completions/_dikast" "$package/share/dikast/conf/tasks/mmlu.yaml"
[ "$(ls "$dir/package")" = usr ] || fail "beside usr: $(ls "$dir/package")"
DESTDIR=$dir/package cmake -DMANIFEST="$build/install_manifest.txt" -P "$sources/cmake/uninstall.cmake" >said 2>&1 || fail "uninstall of DESTDIR: $(cat said)"
left=$(find "$package" ! -type d -o -name dikast)
[ -z "$left" ] || fail "uninstall left: $left"

# -- tools/setup.sh over a machine that has all packages but those of $LACKS; nothing is installed: apt-get says what it was asked for
cat >"$dir/bin/dpkg-query" <<'SH'
#!/bin/sh
for last; do :; done
echo "$last" >>"$ASKED"
case " $LACKS " in *" $last "*) exit 1 ;; esac
printf installed
SH
printf '#!/bin/sh\necho "apt-get $*"\n' >"$dir/bin/apt-get"
printf '#!/bin/sh\necho 0\n' >"$dir/bin/id"
chmod +x "$dir/bin/dpkg-query" "$dir/bin/apt-get" "$dir/bin/id"
setup() { # LACKS ARGUMENT...
    LACKS=$1
    shift
    rm -f "$dir/asked"
    LACKS=$LACKS ASKED=$dir/asked PATH=$dir/bin:$PATH sh "$sources/tools/setup.sh" "$@" >said 2>&1
}
asked() { for p; do grep -qx -- "$p" "$dir/asked" || fail "setup.sh did not look for $p"; done; }
not_asked() { for p; do ! grep -qx -- "$p" "$dir/asked" || fail "setup.sh looked for $p"; done; }
setup "" || fail "setup.sh: $(cat said)"
[ ! -s said ] || fail "setup.sh, nothing to do: $(cat said)"
asked cmake libcmocka-dev
not_asked openmpi-bin slurmd zsh
setup "" --cluster --shells chromium || fail "setup.sh: $(cat said)"
[ ! -s said ] || fail "setup.sh, nothing to do: $(cat said)"
asked cmake openmpi-bin libopenmpi-dev slurmctld slurmd slurm-client munge iproute2 procps zsh fish chromium
setup "slurmd fish" --cluster && grep -q '^apt-get install .* slurmd$' said || fail "setup.sh --cluster without slurmd: $(cat said)"
setup "" --clutser
[ $? -eq 2 ] && grep -q 'no option is called --clutser' said && [ ! -e "$dir/asked" ] || fail "setup.sh --clutser: $(cat said)"
rm -rf "$dir"
echo "install: prefix, DESTDIR, uninstall, setup.sh"
