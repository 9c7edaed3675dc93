/* app/export.h — a model folder written for other programs. */
#ifndef DIKAST_APP_EXPORT_H
#define DIKAST_APP_EXPORT_H

#include "app/open.h"

/* Weights and config.json by net_save_as, and what else the source folder holds for those that load it; what it lacks
 * is made from its ids. */
bool export_hf(const OpenModel *m, const char *out, const SaveOptions *o, Error *err);

#endif
