// layer: cai
/* Constitutions: any bytes are read, or refused with a place; what was read means the same written in either spelling.
 */
#include "cai/constitution.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Error err = {0};
    Constitution c, again;
    int line, column;
    if (!constitution_parse(&c, (const char *)data, n, "fuzz", &err)) {
        CHECK(err.code == ERR_FORMAT && sscanf(err.msg, "fuzz:%d:%d: ", &line, &column) == 2, "no place: %s", err.msg);
        CHECK(line >= 1 && column >= 1 && !c.heap.block, "%s", err.msg);
        return 0;
    }
    Str text = {0};
    for (int spelling = 0; spelling < 3; spelling++) {
        if (spelling == 0)
            constitution_to_xml(&text, &c);
        else if (spelling == 1)
            constitution_to_json(&text, &c);
        else
            constitution_canonical(&text, &c);
        CHECK(constitution_parse(&again, text.s, text.n, "again", &err), "%s: %s", err.msg, text.s);
        CHECK(!strcmp(again.sha256, c.sha256), "spelling %d: %s", spelling, text.s);
        constitution_release(&again);
    }
    str_release(&text);
    constitution_release(&c);
    return 0;
}
