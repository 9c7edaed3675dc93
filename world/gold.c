/* dikast-gold: scores replies of the tiny world.
 *
 *      dikast-gold [FILE]      reads JSON lines {id, prompt, reply} from FILE or standard input and
 *                              writes JSON lines {id, kind, category, verdict, tool_ok} to standard output
 *
 * Exit status: 0 all rows scored, 2 wrong usage, 3 a row is malformed, 4 the files cannot be read or written. */
#include "gold_rule.h"
#include "base/io.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum { MAX_LINE = 1 << 20 };

static bool score_line(Str *out, const char *s, size_t n, const char *name, int line, Error *err) {
    Json *root;
    const char *id, *prompt, *reply;
    if (!json_parse(&root, s, n, 0, name, line, err)) return false;
    bool ok = json_need_str(root, "id", &id, NULL, err) && json_need_str(root, "prompt", &prompt, NULL, err) &&
              json_need_str(root, "reply", &reply, NULL, err);
    if (ok) {
        GoldVerdict g = gold_verdict(prompt, reply);
        JsonOut j;
        json_out_init(&j, out, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", id);
        json_out_str(&j, "kind", g.kind);
        json_out_str(&j, "category", g.category);
        json_out_str(&j, "verdict", g.verdict);
        json_out_bool(&j, "tool_ok", g.tool_ok);
        json_out_obj_end(&j);
        str_putc(out, '\n');
    } else {
        error_wrap(err, "%s:%d", name, line);
    }
    json_release(root);
    return ok;
}

static bool score_file(const char *path, Error *err) {
    LineReader *in;
    Str out = {0};
    const char *line, *name = strcmp(path, "/dev/stdin") ? path : "standard input";
    size_t n;
    bool ok = true;
    if (!lines_open(&in, path, MAX_LINE, err)) return false;
    while (ok && lines_next(in, &line, &n, err)) {
        if (strspn(line, " \t") == n) continue;
        str_clear(&out);
        ok = score_line(&out, line, n, name, (int)lines_number(in), err);
        if (ok && fwrite(out.s, 1, out.n, stdout) != out.n) ok = error_errno(err, "cannot write", "standard output");
    }
    if (err->code != ERR_NONE) ok = false;
    lines_close(in);
    str_release(&out);
    if (ok && fflush(stdout) != 0) ok = error_errno(err, "cannot write", "standard output");
    return ok;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--help")) {
        puts("usage: dikast-gold [FILE]\nreads JSON lines {id, prompt, reply}, writes {id, kind, category, verdict, "
             "tool_ok}");
        return 0;
    }
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        fputs("dikast-gold: usage: dikast-gold [FILE]\n", stderr);
        return 2;
    }
    Error err = {ERR_NONE, ""};
    if (score_file(argc == 2 ? argv[1] : "/dev/stdin", &err)) return 0;
    fprintf(stderr, "dikast-gold: %s\n", err.msg);
    return error_exit_code(err.code);
}
