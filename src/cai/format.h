/* cai/format.h — demonstrations of the two formats the model must learn before it can give feedback: critique + revision and
 * judging. Rows come from data.format, or are made from labelled replies (harm_qa) and human preferences with wording
 * and general rules of our own. */
#ifndef DIKAST_CAI_FORMAT_H
#define DIKAST_CAI_FORMAT_H

#include "cai/stage_util.h"

/* The whole sequence of a format row; only what the model writes has weight. */
void format_sequence(Sequence *s, const Chat *c, const Row *row);
/* The principle as the critique prompt shows it: text, critique request, revision request. */
void format_principle(Str *out, const Principle *p);
/* Labelled replies and preferences that may teach the format; the other half belongs to the classifier and the checks. */
bool format_half(const StageCtx *ctx, const char *id);
/* Appends critique rows (from harm_qa) and judge rows (from prefs); row texts live in out->heap. */
void format_rows_make(Rows *out, const StageCtx *ctx, const Rows *labelled, const Rows *prefs);

#endif
