/* app/doctor.h — the report of `dikast doctor`, shared by its parts. */
#ifndef DIKAST_APP_DOCTOR_H
#define DIKAST_APP_DOCTOR_H

#include "app/open.h"

typedef enum { CHECK_OK, CHECK_WARN, CHECK_FAIL } CheckState;
typedef struct {
    Machine machine;
    bool json;
    Str text;
    JsonOut j;
    int n[3]; /* checks by state */
} Doctor;

/* fix: shown unless the check is ok. */
void doctor_say(Doctor *d, CheckState state, const char *name, const char *fix, const char *fmt, ...) FORMAT(5, 6);
void doctor_self(Doctor *d);
/* Operations and training on a GPU; device: what the lines call it. */
void doctor_self_device(Doctor *d, Backend *be, const char *device);
void doctor_gpu(Doctor *d, const char *device); /* device: as --device names it, or NULL */

#endif
