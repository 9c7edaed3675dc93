/* app/recipes.h — configurations that 'dikast init' writes; the program carries them, so that it needs no folder beside it. */
#ifndef DIKAST_APP_RECIPES_H
#define DIKAST_APP_RECIPES_H

#include <stddef.h>

enum { RECIPE_MAX_FILES = 2 };
typedef struct {
    const char *name, *help;
    const char *file[RECIPE_MAX_FILES + 1]; /* the configuration, then what it reads; below conf/ */
} Recipe;
extern const Recipe recipes[]; /* ends with a NULL name */

typedef struct { const char *name; const unsigned char *data; size_t n; } CarriedFile;
extern const CarriedFile carried_files[]; /* conf/ as it was when the program was built (cmake/carried.cmake); NULL name at the end */

#endif
