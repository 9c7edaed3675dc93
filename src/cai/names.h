/* cai/names.h — a table from names to numbers: open addressing, never more than half full. The names are borrowed. */
#ifndef DIKAST_CAI_NAMES_H
#define DIKAST_CAI_NAMES_H

#include <stddef.h>

typedef struct { const char *key; int value; } NameEntry;
typedef struct { NameEntry *slot; size_t n_slot; } Names;
Names names_new(int n);                                     /* room for n names */
NameEntry *names_at(const Names *t, const char *key);       /* key NULL: not there yet; the caller fills it in */
void names_release(Names *t);

#endif
