// layer: cai
/* Foreign shapes of constitutions: any bytes become a constitution that can be written and read again, or are refused.
 */
#include "cai/constitution_import.h"
#include "cai/constitution_lint.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Error err = {0};
    Constitution c, again;
    Import im;
    if (!constitution_import(&c, &im, (const char *)data, n, "fuzz", NULL, &err)) {
        CHECK(err.code == ERR_FORMAT && !strncmp(err.msg, "fuzz:", 5), "%s", err.msg);
        CHECK(!c.heap.block, "kept after a failure");
        import_release(&im);
        return 0;
    }
    Str text = {0};
    constitution_to_xml(&text, &c);
    CHECK(constitution_parse(&again, text.s, text.n, "again", &err), "%s: %s", err.msg, text.s);
    CHECK(!strcmp(again.sha256, c.sha256), "%s", text.s);
    constitution_release(&again);
    Lint l;
    constitution_lint(&l, &c, &(LintOptions){0});
    for (int i = 0; i < l.n; i++)
        CHECK(l.finding[i].principle < c.n && l.finding[i].other < c.n && l.finding[i].text[0], "finding %d", i);
    lint_release(&l);
    str_release(&text);
    constitution_release(&c);
    import_release(&im);
    return 0;
}
