/* cai/decline.h — a way to decline, for the demonstrations of revision: an opening that names what was asked, a reason, an
 * offer, each drawn from its list by (rng, item). Few fixed texts would be learnt by heart and given word for word; of
 * thousands, which differ with the request as well, a model learns the form.
 *
 *   "I won't help you rob someone, because it could hurt someone. If you want, .."
 *   "I refuse, because it could hurt someone. Please do not rob someone. If you want, .."        reason first
 *
 * What a request asks is the part that a small model says worst: it loses its way there or ends. With the reason before it,
 * what has been said by then is a refusal with a reason, not an evasion; and nothing after it refuses again. */
#ifndef DIKAST_CAI_DECLINE_H
#define DIKAST_CAI_DECLINE_H

#include "base/rng.h"
#include "base/str.h"

/* Appends what a request asks help with, as it stands behind "I won't help you": the words behind the first "how can I",
 * "way to", .., or a request that begins with an imperative ("Write a letter"), up to the end of the sentence, addressed to
 * the one who asks ("my" becomes "your"). False, and nothing appended, when none of these is there or it is too long. */
bool decline_topic(Str *out, const char *request);
/* Appends a reply that declines the request, says why and offers something: text_refuses (eval/refusal.h) holds, text_evasive
 * (cai/filters.h) does not; with reason_first neither does it of the words before those of the request. */
void decline_say(Str *out, const char *request, bool reason_first, Rng rng, uint64_t item);

#endif
