/* data/ledger.h — double-entry book-keeping: every sample and token that came in ends in exactly one bin. Closing fails
 * unless the bins add up, or when truncated + dropped pass their allowed share. Thread-safe. */
#ifndef DIKAST_DATA_LEDGER_H
#define DIKAST_DATA_LEDGER_H

#include "base/error.h"

typedef enum { LEDGER_TRAINED, LEDGER_MASKED, LEDGER_TRUNCATED, LEDGER_DROPPED, LEDGER_COUNT } LedgerBin;
typedef struct Ledger Ledger;
Ledger *ledger_new(void);
void ledger_free(Ledger *l);
void ledger_in(Ledger *l, int64_t n_sample, int64_t n_tok);     /* what came in */
/* reason: fixed words ("context", "DUP", "too long"); NULL for trained and masked. */
void ledger_add(Ledger *l, LedgerBin bin, const char *reason, int64_t n_sample, int64_t n_tok);
/* max_lost alone, for callers about to spend hours. ERR_GATE as below. */
bool ledger_check(Ledger *l, double max_lost, Error *err);
/* Checks the balance and writes path (ledger.json). max_lost: allowed share of tokens truncated or dropped, 0..1. */
bool ledger_close(Ledger *l, double max_lost, const char *path, Error *err);

#endif
