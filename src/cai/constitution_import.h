/* cai/constitution_import.h — constitutions in the shapes others publish, seen from the content:
 *
 *   {"label": {"prompt": ["\n\nCritiqueRequest: ..\n\nCritique:"], "edit_request": "\n\nRevisionRequest:
 * ..\n\nRevision:"}}
 *   ["\n.. Options:", ..]                                    choices; strings without "Options:" are plain rules
 *   {"constitutions": [{"critic", "revision"}], "system_chat": [[messages]]}
 *   [{"dimension", "definition", "negative_definition", "weight"}]
 *   [{"name", "critique_request", "revision_request"}]       also as {"constitutional_principles": [..]} and by name
 *   JSON lines {"trait", "questions", "additional_questions"}
 *   markdown  ## Title {#id authority=level}, with <comparison> blocks of GOOD and BAD replies
 *
 * Our own two spellings pass unchanged. What such a shape does not say has the schema's default; what was left out, cut
 * or taken from another field is said in a note, so that nothing disappears in silence. Comments of XML, the layout of
 * a file and white space around texts are not part of a constitution and are not kept. */
#ifndef DIKAST_CAI_CONSTITUTION_IMPORT_H
#define DIKAST_CAI_CONSTITUTION_IMPORT_H

#include "cai/constitution.h"

typedef struct {
    const char *shape; /* "native", "labelled pairs", ..; static */
    Str note;          /* one line each */
    Str exemplar;      /* JSON lines {"messages": [..]}: chats that stood beside the principles */
    int n_exemplar;
} Import;

/* id: of the constitution, for shapes that have none; NULL: from the file's name. Errors name the entry ("name: entry 3
 * ('x'): ..") or the line. *c and *im are released by their owner also after a failure. */
bool constitution_import(Constitution *c, Import *im, const char *s, size_t n, const char *name, const char *id,
                         Error *err);
void import_release(Import *im);

#endif
